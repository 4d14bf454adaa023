"""An AMQP port as a whole: pauses, draining, reloads and what can be seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sidecar.core.amqp_settings import AmqpHold, AmqpPrefetch, AmqpPublish, AmqpQueue
from sidecar.core.limits import Limits
from sidecar.resilience.breaker import CircuitBreaker
from support.amqp import (
    CLOSE_OK,
    GREETING,
    Peer,
    Stage,
    ack,
    cancel,
    channel_close,
    channel_close_ok,
    close_of,
    consume,
    consume_ok,
    cut,
    deliver,
    get,
    get_empty,
    get_ok,
    method,
    nack,
    publish,
    recover,
    recover_ok,
    short,
    start,
    start_ok,
    table,
)

SLOW = (AmqpPublish(exchange="slow", rate=1.0, burst=1),)


def slow(channel: int, body: bytes = b"hello") -> bytes:
    """A publish to an exchange that takes one a second."""
    return publish(channel, "k", body, exchange="slow")


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_deliveries_wait_while_a_named_upstreams_breaker_is_open() -> None:
    stage = Stage(pause_on=("ollama",), pause_keep=60.0)
    breaker = CircuitBreaker(1, 10.0, 3, stage.loop)
    stage.listener.pause_on = lambda: [breaker]
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    breaker.failure(breaker.allow())
    stage.advance(0.3)
    broker.says(deliver(1, "c", 1))
    client.gets_nothing()
    assert stage.stats.stalled == 1
    # Half-open is enough: somebody has to try.
    stage.advance(10)
    client.gets(deliver(1, "c", 1))
    stage.over()


def test_whoever_connects_during_a_pause_gets_no_deliveries_either() -> None:
    stage = Stage()
    stage.listener.app_health(False)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1))
    client.gets_nothing()
    stage.listener.app_health(True)
    client.gets(deliver(1, "c", 1))
    stage.over()


def test_all_sessions_pause() -> None:
    stage = Stage()
    pairs = [stage.open(1) for _ in range(3)]
    for client, broker in pairs:
        stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    for _, broker in pairs:
        broker.says(deliver(1, "c", 1))
    assert stage.stats.stalled == 3
    pairs[0][0].breaks()
    pairs[0][1].says(CLOSE_OK)
    assert stage.stats.stalled == 2
    pairs[1][1].breaks()
    stage.over()


def test_answers_to_the_apps_own_requests_are_no_work() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(consume(1, "amq.rabbitmq.reply-to", "r", no_ack=True))
    broker.says(consume_ok(1, "r"))
    client.heard()
    broker.heard()
    stage.listener.app_health(False)
    broker.says(deliver(1, "r", 1))
    client.gets(deliver(1, "r", 1))
    stage.listener.stop_work()
    broker.gets_nothing()
    broker.says(deliver(1, "r", 2))
    client.gets(deliver(1, "r", 2))
    stage.over()


# -- draining ----------------------------------------------------------------------------------------------------------


def test_no_more_work_and_what_was_kept_back_goes_to_others() -> None:
    stage = Stage()
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    stage.consumer(client, broker, 2, "d", no_ack=True)
    broker.says(deliver(1, "c", 1))
    client.heard()
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 2), deliver(2, "d", 1))
    stage.listener.stop_work()
    broker.gets(cancel(1, "c", True), nack(1, 2, requeue=True), cancel(2, "d", True))
    # What need not be acknowledged would be lost.
    client.gets(deliver(2, "d", 1))
    broker.says(deliver(1, "c", 3, b"x" * 100), deliver(2, "d", 2), pieces=11)
    broker.gets(nack(1, 3, requeue=True))
    client.gets(deliver(2, "d", 2))
    # The app finishes what it has.
    client.says(ack(1, 1), publish(1, "result"))
    broker.gets(ack(1, 1), publish(1, "result"))
    assert stage.stats.unacked == 0
    stage.listener.app_health(True)
    client.gets_nothing()
    stage.over()


def test_a_fetch_whose_answer_goes_back_gets_nothing() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    client.says(get(1, "q"))
    broker.says(deliver(1, "c", 1), get_ok(1, 2))
    broker.heard()
    client.gets_nothing()
    stage.listener.stop_work()
    broker.gets(cancel(1, "c", True), nack(1, 1, requeue=True), nack(1, 2, requeue=True))
    client.gets(get_empty(1))
    stage.over()


def test_a_fetch_whose_answer_is_recovered_gets_nothing() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    client.says(get(1, "q"))
    broker.says(deliver(1, "c", 1), get_ok(1, 2))
    client.says(recover(1))
    broker.says(recover_ok(1))
    client.gets(get_empty(1), recover_ok(1))
    stage.over()


def test_a_delivery_that_is_coming_in_when_draining_begins() -> None:
    said = deliver(1, "c", 1, b"x" * 50)
    begun = len(cut(said)[0])
    for at in range(begun, len(said)):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        broker.says(said[:at])
        stage.listener.stop_work()
        broker.says(said[at:])
        client.gets(said)
        broker.gets(cancel(1, "c", True))
        stage.over()


def test_a_delivery_that_is_kept_back_in_part_when_draining_begins() -> None:
    said = deliver(1, "c", 1, b"x" * 50)
    begun = len(cut(said)[0])
    for no_ack in (False, True):
        for at in range(begun, len(said), 5):
            stage = Stage()
            client, broker = stage.open(1)
            stage.consumer(client, broker, 1, "c", no_ack)
            stage.listener.app_health(False)
            broker.says(said[:at])
            stage.listener.stop_work()
            broker.says(said[at:])
            if no_ack:
                client.gets(said)
                broker.gets(cancel(1, "c", True))
            else:
                client.gets_nothing()
                broker.gets(cancel(1, "c", True), nack(1, 1, requeue=True))
            stage.over()


def test_consumers_that_come_too_late_are_cancelled() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(consume(1, "q", "a"))
    stage.listener.stop_work()
    broker.heard()
    broker.says(consume_ok(1, "a"))
    broker.gets(cancel(1, "a", True))
    client.says(consume(1, "q", "b", no_wait=True))
    broker.gets(consume(1, "q", "b", no_wait=True), cancel(1, "b", True))
    later, far = stage.open(1)
    later.says(consume(1, "q", "c"))
    far.gets(consume(1, "q", "c"))
    far.says(consume_ok(1, "c"))
    far.gets(cancel(1, "c", True))
    stage.over()


def test_nothing_is_said_on_a_channel_that_is_being_closed() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 1))
    client.says(channel_close(1))
    stage.listener.stop_work()
    broker.says(deliver(1, "c", 2))
    broker.gets(channel_close(1))
    broker.says(channel_close_ok(1))
    client.gets(channel_close_ok(1))
    assert stage.stats.stalled == 0
    stage.over()


def test_deliveries_of_a_consumer_that_was_cancelled_without_waiting() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c", no_ack=True)
    client.says(cancel(1, "c", no_wait=True))
    stage.listener.stop_work()
    broker.gets(cancel(1, "c", no_wait=True))
    broker.says(deliver(1, "c", 1))
    client.gets(deliver(1, "c", 1))
    broker.gets_nothing()
    assert stage.stats.unacked == 0
    stage.over()


def drain(stage: Stage, steps: Sequence[object]) -> list[bool]:
    """Drain; between the steps time passes. Whether it was over after each of them."""
    turn = asyncio.sleep

    async def main() -> list[bool]:
        stage.listener.stop_work()
        stage.listener.drain()
        task = asyncio.create_task(stage.listener.drained())
        over = []
        for step in steps:
            if callable(step):
                step()
            for _ in range(3):
                stage.advance(1)
                for _ in range(5):
                    await turn(0)
            over.append(task.done())
        task.cancel()
        return over

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", lambda seconds: turn(0))  # it looks whether it is over every turn
        return asyncio.run(main())


def test_a_client_is_sent_away_when_all_is_settled() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1))

    def work() -> None:
        assert client.connected
        client.says(publish(1, "result"), ack(1, 1))
        client.heard()

    def confirm() -> None:
        client.gets_nothing()
        broker.says(ack(1, 1))

    def leave() -> None:
        found = client.frames()
        assert found[0] == ack(1, 1)
        assert close_of(found[1]) == (320, "CONNECTION_FORCED - the sidecar is shutting down")
        client.says(CLOSE_OK)
        assert close_of(broker.frames()[-1])[0] == 200
        broker.says(CLOSE_OK)

    assert drain(stage, [None, work, confirm, leave, None]) == [False, False, False, True, True]
    stage.finished()


def test_what_is_held_goes_first() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(*[slow(1) for _ in range(6)])

    def leave() -> None:
        assert len([frame for frame in broker.frames() if frame[0] == 3]) == 6
        client.says(CLOSE_OK)
        broker.says(CLOSE_OK)

    assert drain(stage, [None, None, leave]) == [False, False, True]
    stage.finished()


def test_clients_that_are_not_connected_yet_are_not_waited_for_long() -> None:
    stage = Stage()
    stage.connect()
    client = stage.connect()
    client.says(GREETING)
    stage.broker().says(start())
    assert drain(stage, [None] * 4)[-1]
    stage.finished()


def test_stopping_cuts_whatever_is_left() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(slow(1), slow(1))
    asyncio.run(stage.listener.stop())
    stage.loop.settle()
    assert client.aborted
    assert broker.transport.gone
    stage.finished()


# -- how many ----------------------------------------------------------------------------------------------------------


def test_too_many_clients_are_sent_away() -> None:
    stage = Stage(upstream={"limits": Limits(connections=1)})
    first, _ = stage.open(1)
    second = stage.connect()
    second.says(GREETING)
    second.gets_nothing()
    assert second.closed
    # Nobody had to go for it.
    first.gets_nothing()
    assert first.connected
    stage.over()


# -- reloads -----------------------------------------------------------------------------------------------------------


def reload(stage: Stage, **changes: object) -> None:
    stage.config = replace(stage.config, **changes)  # type: ignore[arg-type]
    stage.listener.configure(stage.config, None)
    stage.advance(0.01)


def test_limits_come_and_go_with_a_reload() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(slow(1, b"1"), slow(1, b"2"))
    broker.gets(slow(1, b"1"), slow(1, b"2"))
    reload(stage, publish=SLOW)
    client.says(slow(1, b"3"), slow(1, b"4"), slow(1, b"5"))
    broker.gets(slow(1, b"3"))
    reload(stage, publish=())
    broker.gets(slow(1, b"4"), slow(1, b"5"))
    stage.over()


def test_a_larger_hold_is_read_on_with() -> None:
    stage = Stage(publish=SLOW, hold=AmqpHold(messages=2))
    client, _ = stage.open(1)
    client.says(slow(1), slow(1), slow(1))
    assert not client.is_read()
    reload(stage, hold=AmqpHold(messages=100))
    assert client.is_read()
    stage.over()


def test_prefetch_limits_of_a_reload_are_for_what_comes_then() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    reload(stage, prefetch=AmqpPrefetch(default=3, max=5))
    client.says(consume(1, "q", "c"))
    broker.gets(method(1, 60, 10, b"\0\0\0\0\0\3\0"), consume(1, "q", "c"))
    stage.over()


def test_a_queue_that_is_watched_no_more_holds_nothing() -> None:
    stage = Stage(queues=(AmqpQueue(name="q", high=10, low=5),))
    client, broker = stage.open(1)
    stage.listener.policy.depth_gates["/", "q"].sampled(50, 0, stage.loop.now, stage.loop.now)
    client.says(publish(1, "q"))
    broker.gets_nothing()
    reload(stage, queues=())
    broker.gets(publish(1, "q"))
    stage.over()


# -- what can be seen --------------------------------------------------------------------------------------------------


def view(stage: Stage) -> list[object]:
    return list(stage.listener.amqp_view.sessions())


def test_sessions_can_be_seen() -> None:
    stage = Stage(publish=SLOW, vhosts=("/agents",))
    client, broker = stage.open(1, 2, vhost="/agents")
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1))
    client.says(slow(2), slow(2), slow(2))
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 2))
    stage.advance(5 / 8)
    [seen] = stage.listener.amqp_view.sessions()
    assert (seen.client, seen.product, seen.user, seen.vhost) == ("127.0.0.1:50000", "test 1.0", "guest", "/agents")
    assert (seen.endpoint, seen.since, seen.channels, seen.consumers) == ("10.0.0.1:5672", 0.625, 2, 1)
    assert (seen.unacked, seen.held, seen.blocked, seen.stalled) == (1, 2, False, 1)
    assert stage.listener.amqp_view.holding() == [("rate of slow, #", 2)]
    assert stage.listener.amqp_view.held_bytes > 0
    stage.over()


def test_counters_of_an_exchange() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(*[slow(1) for _ in range(3)])
    broker.says(ack(1, 1))
    stage.advance(1.1)
    broker.says(nack(1, 2))
    counts = stage.stats.exchanges["/", "slow"]
    assert (counts.published, counts.forwarded, counts.confirmed, counts.nacked) == (3, 2, 1, 1)
    assert (counts.held, counts.held_messages) == (2, 1)
    assert 0.9 < counts.held_seconds < 1.2
    client.says(channel_close(1))
    client.breaks()
    stage.advance(2)
    broker.breaks()
    assert counts.held_messages == 0
    stage.over()


def product(properties: bytes) -> tuple[str, str]:
    """What a client is known as."""
    stage = Stage()
    client = stage.connect()
    client.says(GREETING)
    broker = stage.broker()
    broker.says(start())
    client.says(start_ok(properties))
    [found] = [each.protocol.session for each in [client.transport]]
    stage.over()
    return found.handshake.product, found.handshake.user


def test_a_clients_name_is_printable_and_short() -> None:
    assert product(table(product="x\n\x00y" + "z" * 500))[0] == "x??y" + "z" * 116
    assert product(table(product=5, version=True)) == ("", "guest")
    assert product(b"\0\0\0\x14" + short("product") + b"S\0\0\0\x07\xff\xfeabcde")[0].endswith("abcde")


def test_two_clients_are_told_apart() -> None:
    stage = Stage()
    pairs: list[tuple[Peer, Peer]] = [stage.open(1) for _ in range(3)]
    assert len(view(stage)) == 3
    pairs[1][0].breaks()
    pairs[1][1].says(CLOSE_OK)
    assert len(view(stage)) == 2
    stage.over()
