"""Pauses of deliveries that last: a paused delivery returns to its queue before the broker loses patience."""

from __future__ import annotations

import pytest

from sidecar.amqp.topology.ephemeral import MOST, EphemeralQueues
from sidecar.core.amqp_settings import Amqp, AmqpPrefetch
from support.amqp import (
    Peer,
    Stage,
    ack,
    cancel,
    cancel_ok,
    channel_close_ok,
    channel_open_ok,
    consume,
    consume_ok,
    cut,
    deliver,
    frame,
    get,
    get_ok,
    header,
    headers,
    method,
    nack,
    qos,
    qos_ok,
    queue_declare,
    queue_declare_ok,
    recover,
    recover_ok,
    short,
    table,
    tx_select,
    tx_select_ok,
)
from support.kept import KeptStage

KEEP = 4.0


def paused(*, stage: Stage | None = None) -> tuple[Stage, Peer, Peer]:
    """A client with the consumer "c" on its channel 1, and the app is unwell."""
    stage = stage or Stage(pause_keep=KEEP)
    client, broker = stage.open(1)
    client.says(queue_declare(1, "q"))
    broker.says(queue_declare_ok(1, "q"))
    stage.consumer(client, broker, 1, "c")
    client.heard()
    stage.listener.app_health(False)
    return stage, client, broker


def again(channel: int, queue: str, tag: str, bits: int = 8) -> bytes:
    """``consume`` that wants no answer."""
    return method(channel, 60, 20, b"\x00\x00" + short(queue) + short(tag) + bytes((bits,)) + table())


def test_deliveries_go_back_and_their_consumer_comes_back() -> None:
    stage, client, broker = paused()
    broker.says(deliver(1, "c", 1), deliver(1, "c", 2))
    stage.advance(KEEP - 0.3)
    broker.gets_nothing()
    stage.advance(0.6)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 1, requeue=True), nack(1, 2, requeue=True))
    broker.says(deliver(1, "c", 3))  # it was on its way
    broker.gets(nack(1, 3, requeue=True))
    stage.advance(3 * KEEP)
    broker.gets_nothing()
    client.gets_nothing()
    assert (stage.stats.stalled, stage.stats.unacked, stage.stats.consumers) == (0, 0, 1)
    stage.listener.app_health(True)
    broker.gets(again(1, "q", "c"))
    broker.says(deliver(1, "c", 4))
    client.gets(deliver(1, "c", 4))
    client.says(ack(1, 4, multiple=True))
    broker.gets(ack(1, 4, multiple=True))
    stage.over()


def test_a_short_pause_and_a_consumer_that_got_nothing_change_nothing() -> None:
    stage, client, broker = paused()
    stage.consumer(client, broker, 1, "d")
    stage.advance(KEEP - 1)
    broker.says(deliver(1, "c", 1))
    stage.listener.app_health(True)
    client.gets(deliver(1, "c", 1))
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 2))
    stage.advance(KEEP - 1)
    broker.gets_nothing()
    stage.advance(2)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 2, requeue=True))
    stage.listener.app_health(True)
    broker.gets(again(1, "q", "c"))
    stage.over()


def test_a_consumer_comes_back_with_its_own_limit() -> None:
    stage, client, broker = paused()
    for count, tag in ((3, "d"), (5, "e")):
        client.says(qos(1, count), consume(1, "q", tag))
        broker.says(qos_ok(1), consume_ok(1, tag))
    client.says(qos(1, 7), qos(1, 9, everywhere=True))
    broker.says(qos_ok(1), qos_ok(1))
    client.heard()
    broker.heard()
    broker.says(deliver(1, "d", 1), deliver(1, "e", 2))
    stage.advance(KEEP + 0.5)
    broker.heard()
    stage.listener.app_health(True)
    whole = qos(1, 9, everywhere=True)
    broker.gets(qos(1, 3), whole, again(1, "q", "d"), qos(1, 5), whole, again(1, "q", "e"), qos(1, 7), whole)
    broker.says(*[qos_ok(1)] * 6)
    client.gets_nothing()
    stage.over()


def test_what_may_not_be_cancelled_gives_back_and_takes_again() -> None:
    """A queue that would end with its last consumer, or some time after it; and a consumer whose place is its alone."""
    exclusive = method(1, 60, 20, b"\x00\x00" + short("q") + short("d") + b"\x04" + table())
    for declared, consumed in (
        (method(1, 50, 10, b"\x00\x00" + short("own") + b"\x08" + table()), consume(1, "own", "d")),
        (method(1, 50, 10, b"\x00\x00" + short("own") + b"\x02" + table(x__expires=60_000)), consume(1, "", "d")),
        (queue_declare(1, "own"), exclusive),
    ):
        stage, client, broker = paused()
        declared = declared.replace(b"x.expires", b"x-expires")
        client.says(declared, consumed)
        broker.says(queue_declare_ok(1, "own"), consume_ok(1, "d"))
        client.heard()
        broker.heard()
        for tag in range(1, 4):
            broker.says(deliver(1, "d", tag))
            stage.advance(KEEP + 0.5)
            broker.gets(nack(1, tag, requeue=True))
        broker.says(deliver(1, "d", 4))
        stage.listener.app_health(True)
        broker.gets_nothing()
        client.gets(deliver(1, "d", 4))
        stage.over()


def test_what_cannot_go_back_stays() -> None:
    """Nobody waits for the acknowledgement of what needs none; a stream takes nothing back; a transaction not now."""
    stage, client, broker = paused()
    stage.consumer(client, broker, 1, "n", no_ack=True)
    stage.consumer(client, broker, 1, "s")
    streamed = deliver(1, "s", 2, properties=headers(**{"x-stream-offset": 5}))
    cut = deliver(1, "c", 3)
    broker.says(deliver(1, "n", 1), streamed, cut[:30])
    stage.advance(KEEP + 0.5)
    broker.gets_nothing()
    broker.says(cut[30:])
    stage.advance(KEEP + 0.5)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 3, requeue=True))
    stage.listener.app_health(True)
    client.gets(deliver(1, "n", 1), streamed)
    stage.over()

    stage, client, broker = paused()
    client.says(tx_select(1))
    broker.says(tx_select_ok(1), deliver(1, "c", 1))
    client.heard()
    broker.heard()
    stage.advance(KEEP + 0.5)
    broker.gets_nothing()
    stage.over()


def test_what_was_fetched_waits_no_longer_than_the_deliveries_before_it() -> None:
    stage, client, broker = paused()
    client.says(get(1, "q"))
    broker.heard()
    broker.says(deliver(1, "c", 1), get_ok(1, 2))
    client.gets_nothing()
    stage.advance(KEEP + 0.5)
    client.gets(get_ok(1, 2))
    stage.over()


def test_a_client_that_cancels_meanwhile() -> None:
    for asked_before in (True, False):
        stage, client, broker = paused()
        broker.says(deliver(1, "c", 1))
        if asked_before:
            client.says(cancel(1, "c"))
        stage.advance(KEEP + 0.5)
        if not asked_before:
            client.says(cancel(1, "c"))
        broker.heard()
        stage.listener.app_health(True)
        broker.gets_nothing()
        broker.says(cancel_ok(1, "c"))
        client.gets(cancel_ok(1, "c"))
        stage.over()


def test_all_is_delivered_anew_meanwhile() -> None:
    stage, client, broker = paused()
    broker.says(deliver(1, "c", 1))
    client.says(recover(1))
    broker.heard()
    stage.advance(KEEP + 0.5)
    broker.gets_nothing()
    broker.says(recover_ok(1), deliver(1, "c", 2))
    stage.advance(KEEP + 0.5)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 2, requeue=True))
    stage.over()


def test_a_drain_in_a_pause_begins_nothing_again() -> None:
    stage, _client, broker = paused()
    broker.says(deliver(1, "c", 1))
    stage.advance(KEEP + 0.5)
    broker.heard()
    stage.listener.stop_work()
    broker.gets(cancel(1, "c", no_wait=True))
    stage.listener.app_health(True)
    broker.gets_nothing()
    stage.over()


def test_a_broker_that_is_lost_in_a_pause() -> None:
    """All consumers are begun again over the next connection, and the pause goes on."""
    kept = KeptStage(pause_keep=KEEP)
    stage, _client, broker = paused(stage=kept)
    broker.says(deliver(1, "c", 1))
    stage.advance(KEEP + 0.5)
    broker.heard()
    broker.breaks()
    declared = (channel_open_ok(2), queue_declare_ok(2, "q"), channel_close_ok(2))
    broker = kept.back(*declared, channel_open_ok(1), consume_ok(1, "c"))
    broker.heard()
    broker.says(deliver(1, "c", 1))
    stage.advance(KEEP + 0.5)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 1, requeue=True))
    stage.listener.app_health(True)
    broker.gets(again(1, "q", "c"))
    stage.over()


def test_the_time_can_be_changed() -> None:
    stage, _client, broker = paused()
    stage.listener.configure(Amqp(pause_keep=1.0, prefetch=AmqpPrefetch()), None)
    broker.says(deliver(1, "c", 1))
    stage.advance(1.5)
    broker.gets(cancel(1, "c", no_wait=True), nack(1, 1, requeue=True))
    stage.over()


def test_queues_that_end_by_themselves_are_known_up_to_a_number() -> None:
    queues = EphemeralQueues()
    for number in range(MOST + 1):
        queues.declared("/", str(number), 8, b"")
    assert ("/", "0") not in queues
    assert ("/", "1") in queues
    queues.declared("/", "1", 2, b"")
    assert ("/", "1") not in queues
    assert ("other", "2") not in queues


@pytest.mark.parametrize(
    "rest",
    [
        frame(3, 1, b"x"),
        frame(2, 1, b"x"),
        frame(8, 1, b""),
        header(1, 3) * 2,
        header(1, 3) + frame(3, 1, b"abcd"),
    ],
)
def test_the_parts_of_a_paused_delivery_fit_together_or_its_broker_breaks_the_protocol(rest: bytes) -> None:
    """Found out at once: at the end of the pause it would be in the way of all other clients."""
    stage = Stage()
    ends = [stage.open(1) for _ in range(2)]
    for client, broker in ends:
        stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    broken = cut(deliver(1, "c", 1))[0] + rest
    (client, broker), (other, whole) = ends
    broker.says(broken)
    whole.says(deliver(1, "c", 1))
    assert broker.transport.gone
    stage.listener.app_health(True)
    other.gets(deliver(1, "c", 1))
    stage.over()
