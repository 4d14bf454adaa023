"""Whatever comes from either side: nothing is raised, nothing grows beyond its bounds, and every session ends."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.amqp_settings import AmqpHold, AmqpPrefetch, AmqpPublish, AmqpQueue
from support.amqp import (
    CLOSE_OK,
    GREETING,
    HEARTBEAT,
    UNBLOCKED,
    Peer,
    Stage,
    ack,
    blocked,
    cancel,
    cancel_ok,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select,
    confirm_select_ok,
    connection_open,
    connection_open_ok,
    consume,
    consume_ok,
    deliver,
    exchange_declare,
    frame,
    get,
    get_empty,
    get_ok,
    headers,
    method,
    nack,
    publish,
    qos,
    qos_ok,
    queue_bind,
    queue_declare,
    queue_declare_ok,
    queue_delete,
    recover,
    recover_ok,
    reject,
    returned,
    secure,
    start,
    start_ok,
    table,
    tune,
    tune_ok,
    tx_commit,
    tx_select,
)
from support.examples import examples

MAX_MESSAGE = 2000
HOLD = AmqpHold(messages=20, bytes=5000, timeout=5.0)
#: The most that may be kept for one connection in all, with what it costs to keep it.
BOUND = 200_000


def stage() -> Stage:
    return Stage(
        publish=(
            AmqpPublish(exchange="slow", rate=2.0, burst=1),
            AmqpPublish(exchange="short", rate=2.0, burst=1, over="nack"),
        ),
        queues=(AmqpQueue(name="q", high=3, low=1),),
        hold=HOLD,
        max_message_size=MAX_MESSAGE,
        prefetch=AmqpPrefetch(default=5, max=10),
        sample=0.5,
        spans=True,
    )


def check(it: Stage) -> None:
    """Nothing is kept beyond its bounds."""
    for session in it.listener.sessions:
        kept = session.client.reader._size
        if session.broker is not None:
            kept += session.broker.reader._size
        for channel in session.channels.values():
            kept += sum(len(part) + 64 for part in channel.publish._parts)
            kept += sum(len(part) + 64 for part in channel.pending or ())
            kept += sum(stalled.size() + 64 for stalled in channel.paused)
        assert kept < BOUND + 2 * session.handshake.frame_max
        assert session.partial == sum(channel.publish.size for channel in session.channels.values())
    # One reading of one client may go beyond.
    assert it.listener.scheduler.messages < 20 + 200


CLIENT_HANDSHAKE = [GREETING, start_ok(), tune_ok(), connection_open()]
#: What soon leads to the end of all when it is said in any order.
FINAL = [
    channel_open(1),
    channel_open(2),
    tx_select(2),
    close(),
    CLOSE_OK,
    channel_close(1),
    channel_close(1, 404, "no"),
]
FINAL += [close(320, "shutdown"), method(0, 10, 70, b"\0\0\0\1x\1y"), method(0, 10, 71), channel_close_ok(1)]
FINAL += [channel_close_ok(2), publish(1, "k", b"x" * (MAX_MESSAGE + 1)), publish(1, "k", b"", exchange="slow")[:20]]
BROKER_HANDSHAKE = [start(), secure("x"), tune(), connection_open_ok()]

FROM_CLIENT = [
    HEARTBEAT,
    channel_open(1),
    channel_open(2),
    publish(1, "k", b"x" * 30, cut=10),
    publish(1, "k", b"", exchange="slow", properties=headers(a="b")),
    publish(2, "q", b"y" * 20, exchange="slow", cut=7),
    publish(1, "k", exchange="short"),
    publish(1, "k", b"x" * (MAX_MESSAGE + 1)),
    publish(1, "q"),
    confirm_select(1),
    tx_select(2),
    tx_commit(2),
    qos(1, 0),
    qos(2, 300),
    consume(1, "q", "c"),
    consume(1, "q", "d", no_ack=True, no_wait=True),
    consume(2, "amq.rabbitmq.reply-to", "", no_ack=True),
    cancel(1, "c"),
    cancel(1, "d", no_wait=True),
    get(1, "q"),
    get(1, "q", no_ack=True),
    ack(1, 1),
    ack(1, 3, True),
    ack(1, 0, True),
    nack(1, 2, True, True),
    reject(1, 2),
    recover(1),
    exchange_declare(1, "e", "topic"),
    queue_declare(1, "q"),
    queue_bind(1, "q", "slow", "k"),
    queue_delete(1, "q"),
    channel_close(1),
    channel_close_ok(1),
    channel_close_ok(2),
    close(),
    CLOSE_OK,
    method(0, 10, 70, b"\0\0\0\1x\1y"),
]

FROM_BROKER = [
    HEARTBEAT,
    channel_open_ok(1),
    channel_open_ok(2),
    confirm_select_ok(1),
    method(2, 90, 11),
    method(2, 90, 21),
    qos_ok(1),
    qos_ok(2),
    consume_ok(1, "c"),
    consume_ok(2, "amq.ctag-1"),
    cancel_ok(1, "c"),
    cancel(1, "d", no_wait=True),
    deliver(1, "c", 1),
    deliver(1, "c", 2, b"z" * 400, headers(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")),
    deliver(1, "d", 3),
    deliver(2, "amq.ctag-1", 1),
    get_ok(1, 4),
    get_empty(1),
    returned(1, "k"),
    ack(1, 1),
    ack(1, 3, True),
    ack(1, 0, True),
    nack(1, 2),
    recover_ok(1),
    method(1, 40, 11),
    queue_declare_ok(1, "q", 5),
    method(1, 50, 21),
    method(1, 50, 41, b"\0\0\0\0"),
    channel_close(1, 404, "no"),
    channel_close_ok(1),
    channel_close_ok(2),
    blocked("memory"),
    UNBLOCKED,
    close(320, "shutdown"),
    CLOSE_OK,
    method(0, 10, 71),
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The same with something wrong: a byte, a bit, a length, a piece twice or missing, or rubbish."""
    how = rng.randrange(8)
    at = rng.randrange(len(data))
    if how == 0:
        return data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
    if how == 1:
        return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
    if how == 2:
        return data[:at] + data[at + rng.randrange(1, 9) :]
    if how == 3:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    if how == 4:
        return data[:at] + data[max(0, at - 9) : at] + data[at:]
    if how == 5:
        return frame(rng.choice([1, 2, 3, 8]), rng.randrange(4), rng.randbytes(rng.randrange(40)))
    if how == 6:  # a payload cut short, or longer than it should be, in a frame that is well-formed
        payload = data[7:-1]
        return frame(
            data[0], rng.randrange(3), payload[: rng.randrange(len(payload) + 1)] + rng.randbytes(rng.randrange(3))
        )
    class_id = rng.choice([10, 20, 40, 50, 60, 85, 90])
    return method(rng.randrange(3), class_id, rng.randrange(1, 12) * 10, rng.randbytes(rng.randrange(30)))


def spoken(rng: random.Random, words: list[bytes], errors: float) -> list[bytes]:
    """Some of what can be said, some of it wrong."""
    return [mutated(rng, word) if rng.random() < errors else word for word in words]


def play(rng: random.Random, it: Stage, errors: float, begun: bool) -> None:
    if begun:
        client, broker = it.open(1, 2, frame_max=rng.choice([4096, 131072]), heartbeat=rng.choice([0, 0, 2]))
        lines = {client: FROM_CLIENT, broker: FROM_BROKER}
    else:
        client = it.connect()
        for word in spoken(rng, CLIENT_HANDSHAKE, errors):
            client.says(word, pieces=rng.choice([0, 0, 3]))
            if it.accepted:
                for answer in spoken(rng, [rng.choice(BROKER_HANDSHAKE)], errors):
                    it.accepted[0].says(answer, pieces=rng.choice([0, 0, 3]))
        lines = {client: FROM_CLIENT}
        if it.accepted:
            lines[it.accepted[0]] = FROM_BROKER + BROKER_HANDSHAKE
    for _ in range(rng.randrange(1, 80)):
        peer = rng.choice(list(lines))
        if peer.transport.gone:
            break
        words = rng.choices(lines[peer], k=rng.randrange(1, 6))
        words = spoken(rng, [word for word in words if word not in FINAL or rng.random() < 0.03] or [HEARTBEAT], errors)
        peer.says(*words, pieces=rng.choice([0, 0, 0, 1, 5, 50]))
        check(it)
        what = rng.randrange(12)
        if what == 0:
            it.advance(rng.random() * 3)
        elif what == 1:
            it.listener.app_health(rng.random() < 0.5)
        elif what == 2:
            peer.stops_reading() if rng.random() < 0.3 else peer.reads_again()
        elif what == 3 and rng.random() < 0.1:
            it.listener.stop_work()
        elif what == 4:
            gate = it.listener.policy.depth_gates["/", "q"]
            gate.sampled(rng.randrange(8), 0, it.loop.now, it.loop.now)


@pytest.mark.parametrize("errors", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("begun", [True, False], ids=["open", "handshake"])
def test_streams_with_mistakes(errors: float, begun: bool) -> None:
    for seed in range(examples(150)):
        it = stage()
        play(random.Random(seed), it, errors, begun)
        it.over()


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=6), st.booleans())
def test_rubbish(said: list[tuple[bool, bytes]], begun: bool) -> None:
    it = stage()
    if begun:
        client, broker = it.open(1)
    else:
        client = it.connect()
        client.says(GREETING)
        broker = it.broker()
    for of_client, data in said:
        (client if of_client else broker).says(data)
    it.over()


FRAMES = st.builds(
    frame,
    st.sampled_from([1, 1, 1, 2, 3, 8]),
    st.integers(0, 2),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda number, rest: number + rest,
            st.sampled_from([word[7:11] for word in (*FROM_CLIENT, *FROM_BROKER) if word[0] == 1]),
            st.binary(max_size=40),
        ),
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(st.booleans(), FRAMES), max_size=20))
def test_well_formed_frames_with_anything_in_them(said: list[tuple[bool, bytes]]) -> None:
    it = stage()
    client, broker = it.open(1)
    for of_client, data in said:
        (client if of_client else broker).says(data)
        check(it)
    it.over()


@pytest.mark.parametrize(
    "endless",
    [
        lambda n: HEARTBEAT * 50,
        lambda n: publish(1, "k", b"x" * 100, exchange="slow"),
        lambda n: publish(1, "k", b"x" * 100, exchange="slow") + queue_delete(1, "q"),
        lambda n: publish(n % 5 + 1, "k", b"x" * 500, cut=100)[:-109],
        lambda n: frame(3, 1, b""),
        lambda n: publish(1, f"k{n}", b""),
        lambda n: exchange_declare(1, f"e{n}"),
        lambda n: queue_bind(1, f"q{n}", "e", f"k{n}"),
    ],
)
def test_a_client_that_never_stops(endless: Callable[[int], bytes]) -> None:
    it = stage()
    client, broker = it.open(1, 2, 3, 4, 5)
    client.says(b"".join([publish(1, "k", b"x" * 1000, cut=50)])[:200])
    for number in range(3000):
        if not client.connected:
            break
        client.says(endless(number))
        check(it)
        broker.heard()
        client.heard()
    it.over()


def test_a_broker_that_never_stops_delivering() -> None:
    it = stage()
    client, broker = it.open(1)
    it.consumer(client, broker, 1, "c", no_ack=True)
    it.listener.app_health(False)
    for tag in range(1, 2000):
        broker.says(deliver(1, "c", tag, b"x" * 100))
        check(it)
    assert not broker.is_read()
    it.over()


def test_every_beginning_of_a_dialogue_can_be_its_end() -> None:
    """Cut either connection after each byte of a handshake and a publish."""
    script: list[tuple[int, bytes]] = [
        (0, GREETING),
        (1, start()),
        (0, start_ok()),
        (1, tune()),
        (0, tune_ok() + connection_open()),
        (1, connection_open_ok()),
        (0, channel_open(1)),
        (1, channel_open_ok(1)),
        (0, publish(1, "k", b"x" * 20, exchange="slow", cut=10) * 2),
        (0, queue_delete(1, "q") + close()),
        (1, CLOSE_OK),
    ]
    total = sum(len(said) for _, said in script)
    for stop in range(0, total, 3):
        for who in (0, 1):
            it = stage()
            client = it.connect()
            left = stop
            for speaker, said in script:
                peer: Peer | None = client if speaker == 0 else it.accepted[0] if it.accepted else None
                if peer is not None and not peer.transport.gone:
                    if said[:left]:
                        peer.says(said[:left])
                    left -= len(said)
                if left <= 0:
                    break
            if who == 0 or not it.accepted:
                client.leaves()
            else:
                it.accepted[0].leaves()
            it.over()


def test_names_of_any_bytes_do_no_harm() -> None:
    it = stage()
    client, broker = it.open(1)
    client.says(method(1, 60, 40, b"\0\0\2\xff\xfe\3\xf0\x28\x8c\0") + publish(1, "k")[22:])
    client.says(method(1, 40, 10, b"\0\0\2\xff\xfe\3\xff\xff\xff\0" + table()))
    client.says(method(1, 50, 20, b"\0\0\1q\2\xff\xfe\1\xff\0" + table()))
    assert broker.connected
    it.over()
