"""On a port with a spool the client gets messages whole, or not at all: the broker may be lost in the middle of one."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.amqp_settings import AmqpHold
from support.amqp import (
    CLOSE_OK,
    HEARTBEAT,
    Peer,
    ack,
    cancel,
    cancel_ok,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    consume_ok,
    cut,
    deliver,
    frame,
    get,
    get_empty,
    get_ok,
    header,
    headers,
    method,
    recover,
    recover_ok,
    returned,
    short,
)
from support.examples import examples
from support.kept import KeptStage

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def consuming(no_ack: bool = False, **settings: object) -> tuple[KeptStage, Peer, Peer]:
    """Channel 1 has a consumer "c", channel 2 has nothing."""
    stage = KeptStage(**settings)  # type: ignore[arg-type]
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c", no_ack)
    return stage, client, broker


def stall(stage: KeptStage, on: bool) -> None:
    stage.listener.app_health(not on)


@pytest.mark.parametrize("pieces", [1, 7, 8, 13, 64, 200])
def test_a_message_in_pieces_comes_whole(pieces: int) -> None:
    stage, client, broker = consuming()
    messages = [
        deliver(1, "c", 1, b"x" * 100),
        deliver(1, "c", 2, b""),
        returned(2, "key", b"back"),
        deliver(1, "c", 3, b"y" * 50),
    ]
    data = b"".join(messages)
    heard = b""
    for at in range(0, len(data), pieces):
        broker.says(data[at : at + pieces])
        heard += client.heard()
        rest = heard
        for message in messages:
            rest = rest.removeprefix(message)
        assert not rest, "a part of a message"
    assert heard == data
    assert stage.stats.delivered == stage.stats.unacked == 3
    client.says(ack(1, 3, True))
    broker.gets(ack(1, 3, True))
    assert stage.stats.unacked == 0
    stage.over()


def test_channels_take_turns() -> None:
    """Frames of one channel between those of another."""
    stage, client, broker = consuming()
    stage.consumer(client, broker, 2, "d")
    one = cut(deliver(1, "c", 1, b"one"))
    two = cut(deliver(2, "d", 1, b"two"))
    broker.says(one[0], two[0], one[1], two[1], HEARTBEAT, two[2], one[2])
    client.gets(*two, *one)
    # A large one, which is not kept, among them.
    broker.says(one[0], two[0], header(1, 40 << 20), two[1], frame(3, 1, b"many"), two[2], frame(3, 1, b"more"))
    assert sorted(client.frames()) == sorted(
        [one[0], header(1, 40 << 20), *two, frame(3, 1, b"many"), frame(3, 1, b"more")]
    )
    stage.over()


def test_what_has_come_of_a_message_is_forgotten_with_its_broker() -> None:
    stage, client, broker = consuming()
    broker.says(deliver(1, "c", 1), deliver(1, "c", 2, b"x" * 1000)[:-500])
    client.gets(deliver(1, "c", 1))
    assert stage.stats.delivered == stage.stats.unacked == 1
    broker.breaks()
    assert client.connected
    assert stage.stats.unacked == 0
    client.says(ack(1, 1))
    broker = stage.back(channel_open_ok(1), consume_ok(1, "c"), channel_open_ok(2))
    broker.says(deliver(1, "c", 1, b"again"), deliver(1, "c", 2, b"x" * 1000)[:-500])
    client.gets(deliver(1, "c", 2, b"again"))
    broker.says(deliver(1, "c", 2, b"x" * 1000)[-500:])
    client.gets(deliver(1, "c", 3, b"x" * 1000))
    client.says(ack(1, 2), ack(1, 3))
    broker.gets(ack(1, 1), ack(1, 2))
    stage.over()


def test_what_came_while_things_were_set_up_is_not_acknowledged_to_the_next_broker() -> None:
    stage, client, broker = consuming()
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), deliver(1, "c", 1, b"early"))
    client.gets(deliver(1, "c", 1, b"early"))
    broker.says(deliver(1, "c", 2, b"in part")[:-5])
    broker.breaks()
    broker = stage.back(channel_open_ok(1), consume_ok(1, "c"), channel_open_ok(2))
    broker.says(deliver(1, "c", 1, b"other"))
    client.says(ack(1, 1))
    broker.gets_nothing()
    client.gets(deliver(1, "c", 2, b"other"))
    client.says(ack(1, 2))
    broker.gets(ack(1, 1))
    stage.over()


@pytest.mark.parametrize("come", [1, 2, 3])
def test_a_get_that_is_cut_is_answered(come: int) -> None:
    stage, client, broker = consuming()
    client.says(get(2, "q"), get(2, "q"))
    broker.says(*cut(get_ok(2, 1, b"x" * 200_000))[:come])
    client.gets_nothing()
    broker.breaks()
    client.gets(get_empty(2), get_empty(2))
    stage.over()


def test_a_return_that_is_cut_is_forgotten() -> None:
    stage, client, broker = consuming()
    broker.says(returned(2, "key")[:-3])
    broker.breaks()
    client.gets_nothing()
    stage.over()


def test_what_is_settled_is_what_the_client_has() -> None:
    """ "All so far" cannot mean a message that it has no part of."""
    stage, client, broker = consuming()
    broker.says(deliver(1, "c", 1), deliver(1, "c", 2)[:-1])
    client.gets(deliver(1, "c", 1))
    client.says(ack(1, 0, True))
    broker.gets(ack(1, 1, True))
    broker.says(deliver(1, "c", 2)[-1:])
    assert stage.stats.unacked == 1
    stage.over()


def test_large_ones_pass_as_they_come() -> None:
    stage, client, broker = consuming(max_message_size=1000)
    frames = cut(deliver(1, "c", 1, b"x" * 1001))
    broker.says(frames[0])
    client.gets_nothing()
    for part in (frames[1], frames[2]):
        broker.says(part)
        client.gets(*((frames[0], part) if part is frames[1] else (part,)))
    broker.says(*frames[:2])
    client.gets(*frames[:2])
    broker.breaks()
    client.gets_close(320)
    client.says(CLOSE_OK)
    stage.finished()


def test_so_much_may_wait_on_all_channels_together() -> None:
    stage = KeptStage(max_message_size=1000, hold=AmqpHold(bytes=2000))
    client, broker = stage.open(1, 2, 3, 4)
    for number in range(1, 5):
        stage.consumer(client, broker, number, "c")
    parts = [cut(deliver(number, "c", 1, b"x" * 900)) for number in range(1, 5)]
    parts = [[*each[:2], *(frame(3, number + 1, b"x" * 300) for _ in range(3))] for number, each in enumerate(parts)]
    for each in parts:
        broker.says(*each[:-1])
    client.gets(*parts[3][:-1])  # nothing more can be kept
    for each in parts:
        broker.says(each[-1])
    client.gets(*parts[0], *parts[1], *parts[2], parts[3][-1])
    assert stage.stats.unacked == 4
    stage.over()


def test_a_body_in_very_small_frames_is_not_kept_for_ever() -> None:
    stage, client, broker = consuming(max_message_size=1000, hold=AmqpHold(bytes=2000))
    begin = cut(deliver(1, "c", 1, b"x" * 500))[:2]
    broker.says(*begin)
    for _ in range(100):
        broker.says(frame(3, 1, b"x"))
    client.gets(*begin, *[frame(3, 1, b"x") for _ in range(100)])
    stage.over()


def test_a_channel_that_is_closed_meanwhile() -> None:
    stage, client, broker = consuming()
    broker.says(deliver(1, "c", 1, b"x" * 100)[:-50])
    client.says(channel_close(1))
    broker.gets(channel_close(1))
    broker.says(deliver(1, "c", 1, b"x" * 100)[-50:], channel_close_ok(1))
    client.gets(channel_close_ok(1))
    client.says(channel_open(1))
    broker.says(channel_open_ok(1))
    client.gets(channel_open_ok(1))
    # The same, of a large one: nothing of it must be missing at its beginning.
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1)[:30])
    client.says(channel_close(1))
    broker.heard()
    stage.over()


def test_a_channel_that_is_closed_before_a_large_message_is_known_to_be_one() -> None:
    stage, client, broker = consuming(max_message_size=10)
    frames = cut(deliver(1, "c", 1, b"x" * 100))
    broker.says(frames[0])
    client.says(channel_close(1))
    broker.says(*frames[1:], channel_close_ok(1))
    client.gets(channel_close_ok(1))
    stage.over()


def test_a_consumer_that_is_cancelled_meanwhile() -> None:
    stage, client, broker = consuming()
    for tag, no_wait in ((1, False), (2, True)):
        broker.says(deliver(1, "c", tag)[:-1])
        client.says(cancel(1, "c", no_wait))
        broker.heard()
        broker.says(deliver(1, "c", tag)[-1:])
        client.gets(deliver(1, "c", tag))
        if not no_wait:
            broker.says(cancel_ok(1, "c"))
            client.gets(cancel_ok(1, "c"))
            stage.consumer(client, broker, 1, "c")
    assert stage.stats.unacked == 2
    stage.over()


def test_recovering() -> None:
    stage, client, broker = consuming()
    broker.says(deliver(1, "c", 1), deliver(1, "c", 2)[:-1])
    client.heard()
    client.says(recover(1))
    broker.heard()
    broker.says(deliver(1, "c", 2)[-1:], recover_ok(1))
    client.gets(deliver(1, "c", 2), recover_ok(1))
    assert stage.stats.unacked == 0
    stage.over()


@pytest.mark.parametrize("no_ack", [False, True])
@pytest.mark.parametrize("come", [1, 2, 3])
def test_what_is_kept_back_comes_whole_too(come: int, no_ack: bool) -> None:
    stage, client, broker = consuming(no_ack)
    frames = cut(deliver(1, "c", 1, b"x" * 300, headers(traceparent=TRACEPARENT)))
    frames[2:] = [frame(3, 1, b"x" * 150), frame(3, 1, b"x" * 150)]
    stall(stage, True)
    broker.says(*frames[:come])
    stall(stage, False)
    client.gets_nothing()
    assert stage.stats.stalled == 0
    broker.says(*frames[come:-1])
    client.gets_nothing()
    broker.says(frames[-1])
    assert client.heard() == b"".join(frames)
    assert stage.stats.unacked == (not no_ack)
    # What need not be acknowledged comes even when its consumer goes.
    stall(stage, True)
    frames[0] = cut(deliver(1, "c", 2))[0]
    broker.says(*frames[:come])
    client.says(cancel(1, "c", True))
    broker.heard()
    broker.says(*frames[come:])
    assert client.heard() == (b"".join(frames) if no_ack else b"")
    stall(stage, False)
    client.gets_nothing()
    stage.over()


def test_what_waits_keeps_a_session_from_being_idle() -> None:
    stage, client, broker = consuming(no_ack=True)
    (session,) = stage.listener.sessions
    idle = []
    for part in (b"", deliver(1, "c", 1)[:-1], deliver(1, "c", 1)[-1:]):
        broker.says(part)
        idle.append(session.idle)
    assert idle == [True, False, True]
    client.heard()
    stage.over()


def test_its_trace_goes_on() -> None:
    stage = KeptStage(spans=True)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    message = deliver(1, "c", 1, b"work", headers(traceparent=TRACEPARENT))
    for cutting in (30, 60, len(message) - 3):
        broker.says(message[:cutting])
        broker.says(message[cutting:])
        assert client.heard() == message
        client.says(ack(1, 1))
    assert [span.trace_id for span in stage.spans] == [TRACEPARENT[3:35]] * 3
    stage.over()


@pytest.mark.parametrize("after_the_tag", [b"", b"\0", b"\0\3ab", b"\0\0\2q"])
def test_nobody_is_blamed_for_what_the_broker_has_cut_short(after_the_tag: bytes) -> None:
    """Its exchange or routing key is not there, and was not needed until the client acknowledged it."""
    stage = KeptStage(spans=True)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    whole = deliver(1, "c", 1, b"work", headers(traceparent=TRACEPARENT))
    begin = method(1, 60, 60, short("c") + pack(">Q", 1) + after_the_tag)
    message = begin + whole[len(cut(whole)[0]) :]
    broker.says(message)
    assert client.heard() == message
    client.says(ack(1, 1))
    broker.gets(ack(1, 1))
    assert client.connected
    [span] = stage.spans
    assert span.trace_id == TRACEPARENT[3:35]
    stage.over()


def test_a_return_is_a_span_wherever_it_is_cut() -> None:
    message = returned(1, "nobody", b"work", properties=headers(traceparent=TRACEPARENT))
    for cutting in range(len(message) + 1):
        stage = KeptStage(spans=True)
        client, broker = stage.open(1)
        broker.says(message[:cutting])
        broker.says(message[cutting:])
        assert client.heard() == message
        [span] = stage.spans
        assert (span.name, span.trace_id) == ("return amq.default", TRACEPARENT[3:35])
        assert span.attributes["sidecar.reply_code"] == 312
        stage.over()


METHODS = [deliver(1, "c", 2), ack(1, 1)]
CONTENTS = [header(1, 5), frame(3, 1, b"x" * 51), frame(3, 1, b"x" * 2000)]


@pytest.mark.parametrize("wrong", METHODS + CONTENTS)
def test_a_broker_that_does_not_finish_its_messages_is_left(wrong: bytes) -> None:
    begin = b"".join([*cut(deliver(1, "c", 1, b"x" * 100))[:2], frame(3, 1, b"x" * 50)])
    for at_once in (False, wrong in METHODS):
        stage, client, broker = consuming()
        broker.says(begin, *([wrong] if at_once else ()))
        if not at_once:
            broker.says(wrong)
        assert broker.aborted
        assert client.connected
        client.gets_nothing()
        stage.over()


# -- whatever comes ----------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=examples(60), deadline=None)
def test_every_message_comes_once_and_in_one_piece(data: st.DataObject) -> None:
    """Frames of several channels in any order, in reads of any size, with deliveries paused in between."""
    tight = data.draw(st.booleans(), "some have to pass as they come")
    stage = KeptStage(max_message_size=150 if tight else 300)
    client, broker = stage.open(1, 2, 3)
    for number in (1, 2, 3):
        stage.consumer(client, broker, number, "c", no_ack=number == 3)
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 250)), max_size=12), "messages")
    said: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    for number, size in sizes:
        tag = sum(found[0] == 1 for found in said[number]) + 1
        begin = cut(deliver(number, "c", tag, b"x" * size))[:2]
        said[number] += begin + [frame(3, number, b"x" * min(100, size - at)) for at in range(0, size, 100)]
    order = data.draw(st.permutations([number for number, frames in said.items() for _ in frames]), "order")
    left = {number: list(frames) for number, frames in said.items()}
    stream = b"".join([left[number].pop(0) for number in order])
    heard: list[bytes] = []
    while stream:
        step = data.draw(st.integers(1, 400), "read")
        broker.says(stream[:step])
        stream = stream[step:]
        stall(stage, data.draw(st.booleans(), "kept back"))
        heard += client.frames()
    stall(stage, False)
    heard += client.frames()
    for number, frames in said.items():
        assert [each for each in heard if each[2] == number] == frames
    missing = 0
    for each in heard:
        if each[0] == 1:
            assert tight or not missing
        missing = int.from_bytes(each[11:19], "big") if each[0] == 2 else missing - (each[0] == 3) * (len(each) - 8)
    assert stage.stats.delivered == len(sizes)
    assert stage.stats.unacked == sum(number != 3 for number, _ in sizes)
    (session,) = stage.listener.sessions
    assert session.withheld == 0
    stage.over()
