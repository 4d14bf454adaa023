"""Publishes, deliveries and acknowledgements on their way through the port."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.amqp_settings import AmqpHold, AmqpPublish
from support.amqp import (
    HEARTBEAT,
    Stage,
    ack,
    cancel,
    cancel_ok,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close_of,
    content,
    cut,
    deliver,
    frame,
    get,
    get_empty,
    get_ok,
    header,
    headers,
    method,
    nack,
    name,
    priority,
    publish,
    queue_declare,
    recover,
    recover_ok,
    reject,
    returned,
    tx_commit,
    tx_select,
)
from support.examples import examples

SLOW = (AmqpPublish(exchange="slow", rate=1.0, burst=1),)


def slow(channel: int, body: bytes = b"hello", properties: bytes = b"\0\0") -> bytes:
    """A publish to an exchange that takes one a second."""
    return publish(channel, "k", body, exchange="slow", properties=properties)


# -- publishes ---------------------------------------------------------------------------------------------------------


def test_a_publish_cut_anywhere_arrives_whole() -> None:
    said = publish(1, "key", b"0123456789" * 3, exchange="ex", properties=headers(a="b"), cut=13)
    for at in range(len(said) + 1):
        stage = Stage()
        client, broker = stage.open(1)
        if at:
            client.says(said[:at])
        if at < len(said):
            broker.gets_nothing()
            client.says(said[at:])
        broker.gets(said)
        stage.over()


@pytest.mark.parametrize("pieces", [0, 1, 2, 7, 8, 9, 30, 100])
def test_pieces_of_any_size(pieces: int) -> None:
    stage = Stage()
    client, broker = stage.open(1, 2)
    said = [
        publish(1, "a", b"x" * 40, cut=7),
        publish(2, "b", b""),
        queue_declare(1, "q"),
        publish(1, "c", b"y" * 5),
        publish(2, "d", b"z" * 300, cut=100),
        ack(2, 1),
    ]
    client.says(*said, pieces=pieces)
    # Method frames of another channel may overtake a publish that is not whole; none is here.
    broker.gets(*said)
    stage.over()


def test_publishes_interleaved_over_channels_go_whole_and_in_order() -> None:
    first = cut(publish(1, "a", b"x" * 20, cut=10))
    second = cut(publish(2, "b", b"y" * 30, cut=10))
    third = cut(publish(3, "c", b""))
    for seed in range(60):
        rng = random.Random(seed)
        rows = [list(first), list(second), list(third)]
        order: list[bytes] = []
        while any(rows):
            order.append(rng.choice([row for row in rows if row]).pop(0))
        stage = Stage()
        client, broker = stage.open(1, 2, 3)
        client.says(*order, pieces=rng.choice([0, 0, 5, 40]))
        found = broker.frames()
        whole = {1: first, 2: second, 3: third}
        assert found == [part for number in _ends(order) for part in whole[number]], seed
        assert sum(exchange.forwarded for exchange in stage.stats.exchanges.values()) == 3
        stage.over()


def _ends(order: list[bytes]) -> list[int]:
    """The channels in the order in which their last frames come."""
    last = {frame[2]: at for at, frame in enumerate(order)}
    return sorted(last, key=lambda number: last[number])


def test_what_is_not_whole_never_leaves() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    said = publish(1, "k", b"x" * 20, cut=10)
    client.says(*cut(said)[:-1])
    client.leaves()
    broker.gets_close(200)
    stage.over()


def test_heartbeats_between_the_frames_of_a_publish() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    parts = cut(publish(1, "k", b"x" * 20, cut=10))
    client.says(*[each for part in parts for each in (part, HEARTBEAT)])
    broker.gets(*parts)
    stage.over()


def test_an_empty_body_needs_no_body_frame_and_empty_frames_count_for_nothing() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(publish(1, "k", b""))
    broker.gets(publish(1, "k", b""))
    begin, head, body = cut(publish(1, "k", b"hello"))
    client.says(begin, head, frame(3, 1, b""), body)
    broker.gets(begin, head, frame(3, 1, b""), body)
    stage.over()


STREAM = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 9), st.binary(max_size=30), st.integers(1, 12)), min_size=1, max_size=12
)


@settings(max_examples=examples(150), deadline=None)
@given(STREAM, st.lists(st.integers(1, 200), max_size=30), st.randoms(use_true_random=False))
def test_the_broker_gets_the_same_bytes_however_they_were_cut(
    messages: list[tuple[int, int, bytes, int]], sizes: list[int], rng: random.Random
) -> None:
    rows: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    for channel, what, body, step in messages:
        exchange = ("", "free", "slow")[what % 3]
        properties = (b"\0\0", headers(x="y"), headers(), priority(what), headers(traceparent="00-" + "1" * 52))[
            what % 5
        ]
        said = publish(channel, f"k{what}", body, exchange=exchange, properties=properties, cut=step)
        rows[channel] += cut(said) if what < 9 else [ack(channel, 1)]
    order: list[bytes] = []
    while any(rows.values()):
        order.append(rng.choice([row for row in rows.values() if row]).pop(0))
    data = b"".join(order)

    def told(steps: list[int]) -> list[bytes]:
        stage = Stage(publish=SLOW)
        client, broker = stage.open(1, 2, 3)
        at = 0
        for step in [*steps, len(data)]:
            if at < len(data):
                client.says(data[at : at + step])
                at += step
        early = broker.heard()
        stage.advance(20)
        late = broker.heard()
        stage.over()
        return [early, late]

    # The random numbers of a stage are the same each time, and so the trace ids are.
    assert told(sizes) == told([])


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_publish_without_trace_context_gets_one_of_its_own() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(publish(1, "k"), publish(1, "k", properties=headers(a="b")))
    found = [each for each in cut(broker.heard()) if each[0] == 2]
    contexts = {each[each.index(b"traceparent") + 16 :][:55] for each in found}
    assert len(contexts) == 2
    for context in contexts:
        version, trace_id, span_id, flags = context.decode().split("-")
        assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "00")
    assert b"\x01aS\0\0\0\x01b\x0btraceparent" in found[1]
    stage.over()


def test_a_trace_context_is_never_touched() -> None:
    stage = Stage(sample=1.0, spans=True)
    client, broker = stage.open(1)
    context = f"00-{'ab' * 16}-{'cd' * 8}-01"
    said = publish(1, "k", properties=headers(x="1", traceparent=context))
    client.says(said)
    assert broker.heard() == said
    [span] = stage.spans
    assert (span.kind, span.trace_id, span.parent_id) == ("client", "ab" * 16, "cd" * 8)
    stage.over()


def test_a_sampled_publish_is_a_span_once_it_is_confirmed() -> None:
    stage = Stage(sample=1.0, spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "key", exchange="ex"))
    assert not stage.spans
    assert b"-01" in cut(broker.heard())[1]
    stage.advance(0.5)
    broker.says(ack(1, 1))
    [span] = stage.spans
    assert (span.name, span.kind, span.ok) == ("publish ex", "producer", True)
    assert span.end_ns - span.start_ns == pytest.approx(0.5e9, rel=0.01)
    client.says(publish(1, "key", exchange="ex"))
    broker.says(nack(1, 2))
    assert not stage.spans[1].ok
    stage.over()


def test_a_sampled_delivery_is_a_span_from_its_coming_to_its_acknowledgement() -> None:
    stage = Stage(spans=True)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    context = f"00-{'ab' * 16}-{'cd' * 8}-01"
    broker.says(deliver(1, "c", 1, properties=headers(traceparent=context)), deliver(1, "c", 2))
    stage.advance(2)
    client.says(ack(1, 2, True))
    [span] = stage.spans
    assert (span.kind, span.trace_id, span.ok) == ("consumer", "ab" * 16, True)
    assert span.end_ns - span.start_ns == pytest.approx(2e9, rel=0.01)
    stage.over()


# -- out of place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (501, b"\x05" + b"\0" * 20),
        (501, frame(3, 1, b"x" * 131065)),
        (501, ack(1, 1)[:-1] + b"\0"),
        (502, frame(1, 1, b"\0\x3c")),
        (502, method(1, 60, 40, b"\0\0")),
        (502, method(1, 60, 40, b"\0\0\x09ex\0\0")),
        (502, method(1, 60, 80, b"\0\0")),
        (502, method(1, 60, 10)),
        (502, method(1, 50, 20, b"\0\0\x01q\x01e\x01k\0\0\0\0\x63")),
        (502, publish(1, "k", properties=headers(a="b")[:9])),
        (503, method(0, 20, 10, b"\0")),
        (503, method(0, 60, 80, b"\0" * 9)),
        (503, method(1, 10, 50, b"\0" * 10)),
        (504, channel_open(1)),
        (504, ack(2, 1)),
        (504, publish(2, "k")),
        (505, header(1, 5)),
        (505, frame(3, 1, b"x")),
        (505, header(2, 5)),
        (505, frame(2, 0, b"\0" * 14)),
        (505, frame(8, 1, b"")),
        (505, frame(8, 2, b"")),
        (505, b"".join(cut(publish(1, "k"))[:1]) + ack(1, 1)),
        (505, b"".join(cut(publish(1, "k"))[:2]) + publish(1, "k")),
        (505, b"".join(cut(publish(1, "k"))[:2]) + header(1, 5)),
        (505, b"".join(cut(publish(1, "k"))[:1]) + frame(3, 1, b"x")),
        (505, b"".join(cut(publish(1, "k"))[:2]) + frame(3, 1, b"hello!")),
        (530, channel_open(2048)),
    ],
)
def test_what_is_out_of_place_gets_the_protocols_own_answer(code: int, said: bytes) -> None:
    for pieces in (0, 1):
        if len(said) > 1000 and pieces:
            continue
        stage = Stage()
        client, broker = stage.open(1)
        client.says(publish(1, "before"), said, pieces=pieces)
        client.gets_close(code)
        frames = broker.frames()
        assert b"".join(frames[:-1]) == publish(1, "before")
        assert close_of(frames[-1])[0] == 200
        assert client.connected
        stage.over()


def test_a_message_that_is_too_large_closes_its_channel_only() -> None:
    stage = Stage(max_message_size=10)
    client, broker = stage.open(1, 2)
    client.says(publish(1, "k", b"x" * 10), publish(2, "k", b"1"), publish(1, "k", b"x" * 11), publish(2, "k", b"2"))
    assert "10" in client.gets_close(406, "PRECONDITION_FAILED", "11")
    found = broker.frames()
    assert [name(each).split(" ")[0:2] for each in found if each[0] == 1] == [
        ["1:", "publish"],
        ["2:", "publish"],
        ["1:", "channel.close"],
        ["2:", "publish"],
    ]
    assert stage.stats.channels == 1
    # What the client says before it knows is dropped.
    client.says(publish(1, "k", b"y"), ack(1, 1), HEARTBEAT)
    broker.gets_nothing()
    client.says(channel_close_ok(1))
    broker.gets_nothing()
    broker.says(channel_close_ok(1))
    client.gets_nothing()
    # The number can be used again.
    client.says(channel_open(1))
    broker.gets(channel_open(1))
    broker.says(channel_open_ok(1))
    client.gets(channel_open_ok(1))
    client.says(publish(1, "k", b"again"))
    broker.gets(publish(1, "k", b"again"))
    stage.over()


@pytest.mark.parametrize("pieces", [0, 1, 9])
def test_a_message_that_is_too_large_in_pieces(pieces: int) -> None:
    stage = Stage(max_message_size=10)
    client, broker = stage.open(1)
    client.says(publish(1, "k", b"x" * 200, cut=20), pieces=pieces)
    client.gets_close(406)
    assert close_of(broker.frames()[0])[0] == 200
    stage.over()


def test_a_number_used_again_at_once_does_not_hear_of_its_past() -> None:
    stage = Stage(max_message_size=10)
    client, broker = stage.open(1, confirms=True)
    stage.consumer(client, broker, 1, "c")
    client.says(publish(1, "k"), publish(1, "k", b"x" * 11))
    client.gets_close(406)
    client.says(channel_close_ok(1), channel_open(1))
    broker.says(ack(1, 1), deliver(1, "c", 1), returned(1, "k"))
    client.gets_nothing()
    broker.says(channel_close_ok(1), channel_open_ok(1))
    client.gets(channel_open_ok(1))
    assert stage.stats.unacked == 0
    stage.over()


def test_both_close_a_channel_at_the_same_time() -> None:
    stage = Stage(max_message_size=10)
    client, broker = stage.open(1)
    client.says(publish(1, "k", b"x" * 11))
    client.gets_close(406)
    broker.heard()
    broker.says(channel_close(1, 404, "no exchange"))
    broker.gets(channel_close_ok(1))
    broker.says(channel_close_ok(1))
    client.gets_nothing()
    client.says(channel_close(1), channel_close_ok(1))
    client.gets(channel_close_ok(1))
    broker.gets_nothing()
    stage.over()


def test_unfinished_publishes_are_bounded() -> None:
    stage = Stage(hold=AmqpHold(messages=10, bytes=1000), max_message_size=1000)
    client, broker = stage.open(1, 2, 3, 4)
    for number in (1, 2):
        client.says(*cut(publish(number, "k", b"x" * 900, cut=700))[:-1])
    client.says(publish(3, "once"), *cut(publish(4, "k", b"x" * 900, cut=700))[:-1])
    client.gets_close(506)
    found = broker.frames()
    assert b"".join(found[:3]) == publish(3, "once")
    assert close_of(found[3])[0] == 200
    stage.over()


def test_endless_empty_frames_are_bounded() -> None:
    stage = Stage(hold=AmqpHold(messages=10, bytes=1000), max_message_size=1000)
    client, _ = stage.open(1)
    client.says(*cut(publish(1, "k", b"x"))[:2])
    for _ in range(100):
        client.says(frame(3, 1, b""))
    client.gets_close(506)
    stage.over()


# -- held publishes ----------------------------------------------------------------------------------------------------


def test_what_is_held_stops_neither_other_lanes_nor_acknowledgements() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    client.says(slow(1, b"1"), slow(1, b"2"))
    broker.gets(slow(1, b"1"))
    broker.says(deliver(1, "c", 1))
    client.gets(deliver(1, "c", 1))
    client.says(slow(1, b"3"), ack(1, 1), publish(1, "k"), publish(2, "k"), get(1, "q"), queue_declare(2, "q"))
    broker.gets(ack(1, 1), publish(1, "k"), publish(2, "k"), get(1, "q"), queue_declare(2, "q"))
    assert stage.listener.scheduler.messages == 2
    stage.advance(1.1)
    broker.gets(slow(1, b"2"))
    stage.advance(1)
    broker.gets(slow(1, b"3"))
    stage.over()


def test_held_publishes_leave_by_priority() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(*[slow(1, bytes((65 + n,)), priority(n)) for n in (0, 3, 9, 3)])
    stage.advance(5)
    assert [each[7:-1] for each in broker.frames() if each[0] == 3] == [b"A", b"J", b"D", b"D"]
    stage.over()


def test_a_publish_that_came_in_pieces_is_held_whole() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    client.says(slow(1), slow(2), pieces=5)
    client.says(slow(1, b"x" * 100, headers(a="b")), slow(2, b"y"), pieces=7)
    broker.gets(slow(1))
    stage.advance(5)
    broker.gets(slow(2), slow(1, b"x" * 100, headers(a="b")), slow(2, b"y"))
    stage.over()


# -- confirms ----------------------------------------------------------------------------------------------------------


def test_confirms_pass_as_they_are_as_long_as_nothing_was_held() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    client.says(*[publish(1, "k") for _ in range(5)])
    said = [ack(1, 2, True), nack(1, 4), ack(1, 3), ack(1, 5, True)]
    broker.says(*said)
    client.gets(*said)
    [exchange] = stage.stats.exchanges.values()
    assert (exchange.published, exchange.forwarded, exchange.confirmed, exchange.nacked) == (5, 5, 4, 1)
    stage.over()


def test_confirms_are_renumbered_once_something_was_overtaken() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(slow(1, b"1"), slow(1, b"2"), publish(1, "k", b"3"), publish(1, "k", b"4"))
    broker.gets(slow(1, b"1"), publish(1, "k", b"3"), publish(1, "k", b"4"))
    broker.says(ack(1, 3, True))
    client.gets(ack(1, 1), ack(1, 3), ack(1, 4))
    stage.advance(1.1)
    broker.gets(slow(1, b"2"))
    client.says(publish(1, "k", b"5"))
    broker.says(nack(1, 5), ack(1, 4))
    client.gets(nack(1, 5), ack(1, 2))
    stage.over()


def test_an_answer_to_everything_does_not_count_for_what_is_held() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k"), slow(1), slow(1))
    broker.says(ack(1, 0, True))
    client.gets(ack(1, 2, True))
    stage.over()


def test_over_nack_refuses_at_once_in_confirm_mode_and_holds_otherwise() -> None:
    limit = AmqpPublish(exchange="slow", rate=1.0, burst=1, over="nack")
    stage = Stage(publish=(limit,))
    client, broker = stage.open(1, confirms=True)
    client.says(channel_open(2))
    broker.says(channel_open_ok(2))
    client.heard()
    client.says(slow(1, b"1"), slow(1, b"2"), publish(1, "k", b"3"), slow(2, b"4"))
    client.gets(nack(1, 2))
    broker.gets(channel_open(2), slow(1, b"1"), publish(1, "k", b"3"))
    broker.says(ack(1, 2, True))
    client.gets(ack(1, 3, True))
    stage.advance(1.1)
    broker.gets(slow(2, b"4"))
    assert stage.stats.exchanges["/", "slow"].nacked_here == 1
    stage.over()


def test_a_held_publish_is_refused_in_time() -> None:
    stage = Stage(publish=SLOW, hold=AmqpHold(timeout=2.0))
    client, broker = stage.open(1, confirms=True)
    client.says(*[slow(1, bytes((48 + n,))) for n in range(6)])
    stage.advance(3)
    found = client.frames()
    assert found == [nack(1, tag) for tag in (4, 5, 6)] or found == [nack(1, tag) for tag in (3, 4, 5, 6)]
    sent = [each[7:-1] for each in broker.frames() if each[0] == 3]
    assert sent == [b"0", b"1", b"2"][: 6 - len(found)]
    stage.over()


def test_what_was_held_before_confirm_mode_is_not_confirmed_to_the_client() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(slow(1, b"1"), slow(1, b"2"), method(1, 85, 10, b"\0"), slow(1, b"3"))
    broker.says(method(1, 85, 11))
    client.gets(method(1, 85, 11))
    stage.advance(3)
    broker.says(ack(1, 1), ack(1, 2))
    client.gets(ack(1, 1))
    stage.over()


def test_returns_pass_and_are_counted() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "nowhere", exchange="ex", bits=1))
    broker.says(returned(1, "nowhere", exchange="ex"), ack(1, 1))
    client.gets(returned(1, "nowhere", exchange="ex"), ack(1, 1))
    assert stage.stats.exchanges["/", "ex"].returned == 1
    stage.over()


# -- deliveries --------------------------------------------------------------------------------------------------------


def test_deliveries_are_counted_until_they_are_settled() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.consumer(client, broker, 1, "auto", no_ack=True)
    said = [deliver(1, "c", tag) for tag in range(1, 8)] + [deliver(1, "auto", 8)]
    broker.says(*said, pieces=10)
    client.gets(*said)
    assert (stage.stats.delivered, stage.stats.unacked, stage.stats.consumers) == (8, 7, 2)
    for settled, left in [(ack(1, 1), 6), (ack(1, 3, True), 4), (reject(1, 4), 3), (nack(1, 6, True, True), 1)]:
        client.says(settled)
        broker.gets(settled)
        assert stage.stats.unacked == left
    client.says(ack(1, 0, True))
    broker.gets(ack(1, 7, True))
    assert stage.stats.unacked == 0
    client.says(ack(1, 0, True))  # all of nothing
    broker.gets_nothing()
    stage.over()


def test_all_so_far_does_not_settle_what_is_still_on_its_way() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    said = deliver(1, "c", 1)
    broker.says(said)
    client.gets(said)
    client.says(nack(1, 0, True, True))
    broker.says(deliver(1, "c", 2))
    broker.gets(nack(1, 1, True, True))
    assert stage.stats.unacked == 1
    stage.over()


def test_gets() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(get(1, "q"), get(1, "q", no_ack=True), get(1, "q"), get(1, "q"))
    broker.says(get_ok(1, 1), get_ok(1, 2), get_empty(1), get_ok(1, 3))
    client.gets(get_ok(1, 1), get_ok(1, 2), get_empty(1), get_ok(1, 3))
    assert stage.stats.unacked == 2
    stage.over()


def test_everything_that_was_delivered_is_void_after_a_recover() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1))
    client.says(recover(1))
    broker.gets(recover(1))
    broker.says(recover_ok(1))
    assert stage.stats.unacked == 0
    broker.says(deliver(1, "c", 2))
    assert stage.stats.unacked == 1
    stage.over()


def test_deliveries_wait_while_the_app_is_unwell() -> None:
    stage = Stage()
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    stage.consumer(client, broker, 2, "d")
    broker.says(deliver(1, "c", 1))
    client.gets(deliver(1, "c", 1))
    stage.listener.app_health(False)
    late = [deliver(1, "c", 2), deliver(2, "d", 1, b"x" * 100), deliver(1, "c", 3)]
    broker.says(*late, pieces=9)
    client.gets_nothing()
    assert (stage.stats.stalled, stage.stats.unacked) == (3, 1)
    # Everything else flows.
    client.says(ack(1, 1), publish(1, "k"), get(1, "q"))
    broker.gets(ack(1, 1), publish(1, "k"), get(1, "q"))
    # Delivery tags come in order: what was asked for comes behind what is kept back on its channel.
    broker.says(get_ok(1, 4))
    client.gets_nothing()
    stage.listener.app_health(True)
    client.gets(late[0], late[2], get_ok(1, 4), late[1])
    assert (stage.stats.stalled, stage.stats.unacked) == (0, 4)
    stage.over()


def test_a_delivery_that_is_coming_in_when_the_app_is_well_again() -> None:
    said = deliver(1, "c", 1, b"x" * 50)
    for at in range(1, len(said)):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        stage.listener.app_health(False)
        broker.says(said[:at])
        stage.listener.app_health(True)
        broker.says(said[at:])
        client.gets(said)
        assert stage.stats.stalled == 0
        stage.over()


def test_a_delivery_that_has_begun_is_not_kept_back() -> None:
    said = deliver(1, "c", 1, b"x" * 50)
    begun = len(cut(said)[0])
    for at in (begun, begun + 9, len(said) - 3):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        broker.says(said[:at])
        stage.listener.app_health(False)
        broker.says(said[at:])
        client.gets(said)
        stage.over()


def test_a_cancelled_consumers_deliveries_go_back() -> None:
    for no_wait in (False, True):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        stage.consumer(client, broker, 1, "d")
        stage.listener.app_health(False)
        broker.says(deliver(1, "c", 1), deliver(1, "d", 2), deliver(1, "c", 3))
        client.says(cancel(1, "c", no_wait))
        if not no_wait:
            broker.gets(cancel(1, "c"))
            broker.says(cancel_ok(1, "c"))
            client.gets(cancel_ok(1, "c"))
            broker.gets(nack(1, 1, requeue=True), nack(1, 3, requeue=True))
        else:
            assert sorted(broker.frames()) == sorted(
                [cancel(1, "c", True), nack(1, 1, requeue=True), nack(1, 3, requeue=True)]
            )
        stage.listener.app_health(True)
        client.gets(deliver(1, "d", 2))
        stage.over()


def test_a_recover_takes_back_what_was_kept() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 1))
    client.says(recover(1))
    # So does what is on its way until the broker has read that; none of it may be settled by us.
    broker.says(deliver(1, "c", 2))
    broker.gets(recover(1))
    broker.says(recover_ok(1), deliver(1, "c", 3))
    stage.listener.app_health(True)
    client.gets(recover_ok(1), deliver(1, "c", 3))
    broker.gets_nothing()
    assert (stage.stats.unacked, stage.stats.stalled) == (1, 0)
    stage.over()


@pytest.mark.parametrize("all_of_them", [False, True])
def test_acknowledging_many_spares_what_the_client_has_not_seen(all_of_them: bool) -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1), deliver(1, "c", 2))
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 3))
    broker.heard()
    client.says(ack(1, 0 if all_of_them else 3, True))
    settled = set()
    for found in broker.frames():
        tag, many = found[18], found[19]
        assert found[7:11] == b"\0\x3c\0\x50"
        settled |= set(range(1, tag + 1)) if many else {tag}
    assert settled == {1, 2}
    assert stage.stats.unacked == 0
    stage.listener.app_health(True)
    client.says(ack(1, 3))
    broker.gets(ack(1, 3))
    stage.over()


def test_all_of_nothing_while_deliveries_wait_is_nothing() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 1))
    client.says(ack(1, 0, True), nack(1, 0, True, True))
    broker.gets_nothing()
    stage.over()


def test_deliveries_that_wait_are_bounded() -> None:
    stage = Stage(hold=AmqpHold(bytes=10_000))
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c", no_ack=True)
    stage.listener.app_health(False)
    for tag in range(1, 30):
        broker.says(deliver(1, "c", tag, b"x" * 1000))
    assert not broker.is_read()
    assert stage.stats.stalled < 12
    stage.listener.app_health(True)
    client.gets(*[deliver(1, "c", tag, b"x" * 1000) for tag in range(1, 30)])
    assert broker.is_read()
    stage.over()


def test_what_need_not_be_acknowledged_is_never_thrown_away() -> None:
    said = deliver(1, "c", 1, b"x" * 50)
    for at in (len(said), 40, 60):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c", no_ack=True)
        stage.listener.app_health(False)
        broker.says(said[:at])
        client.gets_nothing()
        client.says(cancel(1, "c"))
        broker.says(said[at:] + cancel_ok(1, "c"))
        client.gets(said, cancel_ok(1, "c"))
        stage.over()


# -- the order of things -----------------------------------------------------------------------------------------------


def test_a_transaction_is_one_lane_and_is_committed_behind_what_is_held() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    client.says(tx_select(1))
    broker.gets(tx_select(1))
    client.says(
        slow(1, b"1"), slow(1, b"2"), publish(1, "k", b"3"), tx_commit(1), publish(1, "k", b"4"), publish(2, "k")
    )
    broker.gets(slow(1, b"1"), publish(2, "k"))
    stage.advance(1.1)
    broker.gets(slow(1, b"2"), publish(1, "k", b"3"), tx_commit(1), publish(1, "k", b"4"))
    stage.over()


def test_a_session_full_of_channels() -> None:
    stage = Stage()
    client, broker = stage.open(*range(1, 101))
    for number in range(1, 101):
        client.says(publish(number, "k"))
    broker.gets(*[publish(number, "k") for number in range(1, 101)])
    assert stage.stats.channels == 100
    stage.over()


def test_frame_order_inside_a_lane_never_changes() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        stage = Stage(publish=(AmqpPublish(exchange="slow", rate=20.0, burst=3),))
        client, broker = stage.open(1, 2)
        bodies: dict[tuple[int, str], list[bytes]] = {}
        for number in range(60):
            channel, exchange = rng.choice([1, 2]), rng.choice(["slow", "free"])
            body = b"%d" % number
            bodies.setdefault((channel, exchange), []).append(body)
            client.says(publish(channel, "k", body, exchange=exchange), pieces=rng.choice([0, 0, 9]))
            if rng.random() < 0.3:
                stage.advance(0.1)
        stage.advance(5)
        found: dict[tuple[int, str], list[bytes]] = {}
        frames = broker.frames()
        for begin, body in zip(frames[::3], frames[2::3], strict=True):
            found.setdefault((begin[2], "slow" if b"slow" in begin else "free"), []).append(body[7:-1])
        assert found == bodies
        assert all(int(a) < int(b) for row in found.values() for a, b in pairwise(row))
        stage.over()


def test_content_of_the_broker_is_not_looked_into() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    said = [content(1, b"x" * 10, b"\xff\xff" + bytes(range(40)))]
    broker.says(deliver(1, "c", 1)[: -len(content(1, b"work"))], *said)
    client.gets(deliver(1, "c", 1)[: -len(content(1, b"work"))], *said)
    stage.over()
