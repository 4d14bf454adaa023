"""Channels, consumers, limits and what is learnt on the way: the methods that are neither publishes nor deliveries."""

from __future__ import annotations

import pytest

from sidecar.amqp.wire.tables import encode_table
from sidecar.core.amqp_settings import AmqpHold, AmqpPrefetch, AmqpPublish, AmqpQueue
from support.amqp import (
    CLOSE_OK,
    DEAF,
    HEARTBEAT,
    PROPERTIES,
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
    consume,
    consume_ok,
    deliver,
    exchange_declare,
    long,
    method,
    name,
    publish,
    qos,
    qos_ok,
    queue_bind,
    queue_declare,
    queue_declare_ok,
    queue_delete,
    queue_purge,
    queue_unbind,
    short,
    table,
    tx_commit,
    tx_select,
)

SLOW = (AmqpPublish(exchange="slow", rate=1.0, burst=1),)


def slow(channel: int, body: bytes = b"hello") -> bytes:
    """A publish to an exchange that takes one a second."""
    return publish(channel, "k", body, exchange="slow")


def limited(default: int, largest: int) -> Stage:
    return Stage(prefetch=AmqpPrefetch(default=default, max=largest))


# -- channels ----------------------------------------------------------------------------------------------------------


def test_channels_open_and_close() -> None:
    stage = Stage()
    client, broker = stage.open()
    for number in (1, 7, 2047):
        client.says(channel_open(number))
        broker.gets(channel_open(number))
        broker.says(channel_open_ok(number))
        client.gets(channel_open_ok(number))
    assert stage.stats.channels == 3
    client.says(channel_close(7))
    broker.gets(channel_close(7))
    broker.says(channel_close_ok(7))
    client.gets(channel_close_ok(7))
    assert stage.stats.channels == 2
    client.says(channel_open(7))
    broker.gets(channel_open(7))
    stage.over()


def test_a_channel_that_the_broker_closes() -> None:
    stage = Stage()
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1), channel_close(1, 404, "NOT_FOUND - no exchange 'x'"))
    client.gets(deliver(1, "c", 1), channel_close(1, 404, "NOT_FOUND - no exchange 'x'"))
    assert (stage.stats.channels, stage.stats.unacked, stage.stats.consumers) == (1, 0, 0)
    # The client may have said something before it knew.
    client.says(publish(1, "k"), ack(1, 1), publish(2, "k"))
    broker.gets(publish(2, "k"))
    client.says(channel_close_ok(1), channel_open(1))
    broker.gets(channel_close_ok(1), channel_open(1))
    broker.says(channel_open_ok(1))
    client.gets(channel_open_ok(1))
    stage.over()


def test_client_and_broker_close_a_channel_at_the_same_time() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(channel_close(1))
    broker.says(channel_close(1, 404, "no"))
    client.gets(channel_close(1, 404, "no"))
    client.says(channel_close_ok(1))
    broker.gets(channel_close(1), channel_close_ok(1))
    broker.says(channel_close_ok(1))
    client.gets(channel_close_ok(1))
    stage.over()


def test_a_channel_is_not_the_connection() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(method(1, 10, 50, b"\0" * 10))
    client.gets_close(503, "10.50")
    assert name(broker.frames()[0]).startswith("0: close")
    stage.over()


def test_update_secret_passes() -> None:
    stage = Stage()
    client, broker = stage.open()
    said = method(0, 10, 70, long("token") + short("it is late"))
    client.says(said)
    broker.gets(said)
    broker.says(method(0, 10, 71))
    client.gets(method(0, 10, 71))
    stage.over()


def test_methods_that_nobody_here_looks_at_pass() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    said = [method(1, 20, 20, b"\1"), method(1, 20, 21, b"\1"), exchange_declare(1, "e", "x-delayed-message")]
    client.says(*said)
    broker.gets(*said)
    broker.says(method(1, 77, 8, b"y"))
    client.gets(method(1, 77, 8, b"y"))
    stage.over()


@pytest.mark.parametrize("said", [method(1, 77, 7), method(1, 60, 60), method(1, 20, 11), method(1, 60, 50)], ids=name)
def test_methods_that_no_client_may_send(said: bytes) -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(said)
    client.gets_close(503, "COMMAND_INVALID")
    broker.gets_close(200)
    stage.over()


# -- prefetch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "got"), [(0, 5), (1, 1), (5, 5), (20, 20), (21, 20), (65535, 20)], ids=lambda value: str(value)
)
def test_prefetch_limits_are_limited(asked: int, got: int) -> None:
    stage = limited(5, 20)
    client, broker = stage.open(1)
    client.says(qos(1, asked, everywhere=True))
    broker.gets(qos(1, got, everywhere=True))
    broker.says(qos_ok(1))
    client.gets(qos_ok(1))
    # A consumer of a channel with a limit adds none.
    client.says(consume(1, "q", "c"))
    broker.gets(consume(1, "q", "c"))
    stage.over()


def test_a_consumer_without_a_limit_gets_the_default_one() -> None:
    stage = limited(5, 20)
    client, broker = stage.open(1)
    client.says(consume(1, "q", "c"), consume(1, "q", "d"))
    broker.gets(qos(1, 5), consume(1, "q", "c"), consume(1, "q", "d"))
    broker.says(qos_ok(1), consume_ok(1, "c"), consume_ok(1, "d"))
    client.gets(consume_ok(1, "c"), consume_ok(1, "d"))
    # Its own limits are answered as ever.
    client.says(qos(1, 3))
    broker.gets(qos(1, 3))
    broker.says(qos_ok(1))
    client.gets(qos_ok(1))
    stage.over()


def test_answers_to_limits_of_ours_and_of_the_clients_are_told_apart() -> None:
    stage = limited(5, 20)
    client, broker = stage.open(1, 2)
    client.says(consume(1, "q", "c"), qos(1, 7), consume(2, "q", "d"))
    broker.gets(qos(1, 5), consume(1, "q", "c"), qos(1, 7), qos(2, 5), consume(2, "q", "d"))
    broker.says(qos_ok(1), consume_ok(1, "c"), qos_ok(1), qos_ok(2), consume_ok(2, "d"))
    client.gets(consume_ok(1, "c"), qos_ok(1), consume_ok(2, "d"))
    stage.over()


def test_consumers_that_need_no_limit_get_none() -> None:
    stage = limited(5, 20)
    client, broker = stage.open(1)
    client.says(consume(1, "q", "c", no_ack=True))
    broker.gets(consume(1, "q", "c", no_ack=True))
    stage.over()
    stage = limited(0, 0)
    client, broker = stage.open(1)
    client.says(consume(1, "q", "c"), qos(1, 0), qos(1, 60000))
    broker.gets(consume(1, "q", "c"), qos(1, 0), qos(1, 60000))
    stage.over()


# -- consumers ---------------------------------------------------------------------------------------------------------


def test_consumers_are_counted() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(consume(1, "q", "a"), consume(1, "q", "", no_ack=True), consume(1, "q", "b", no_wait=True))
    broker.says(consume_ok(1, "a"), consume_ok(1, "amq.ctag-1"))
    assert stage.stats.consumers == 3
    broker.says(deliver(1, "amq.ctag-1", 1), deliver(1, "a", 2))
    assert stage.stats.unacked == 1
    client.says(cancel(1, "a"))
    assert stage.stats.consumers == 3
    broker.says(cancel_ok(1, "a"))
    assert stage.stats.consumers == 2
    client.says(cancel(1, "b", no_wait=True))
    assert stage.stats.consumers == 1
    broker.says(cancel(1, "amq.ctag-1", no_wait=True))  # its queue was deleted
    assert stage.stats.consumers == 0
    assert client.frames()[-1] == cancel(1, "amq.ctag-1", no_wait=True)
    stage.over()


def test_a_consumer_tag_that_is_used_twice_is_counted_once() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(consume(1, "q", "c", no_wait=True), consume(1, "q", "c", no_wait=True), consume(1, "q", "c"))
    broker.says(consume_ok(1, "c"))
    assert stage.stats.consumers == 1
    stage.over()


def test_a_delivery_tag_that_is_used_twice_is_counted_once() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1), deliver(1, "c", 1))
    assert stage.stats.unacked == 1
    client.says(ack(1, 1), ack(1, 1))
    assert stage.stats.unacked == 0
    stage.over()


# -- what must not overtake held publishes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "barrier",
    [
        channel_close(1),
        tx_select(1),
        tx_commit(1),
        method(1, 90, 30),
        method(1, 40, 20, b"\0\0\1e\0"),
        method(1, 40, 40, b"\0\0\1d\1e\1k\0" + table()),
        queue_delete(1, "q"),
        queue_purge(1, "q"),
        queue_unbind(1, "q", "e", "k"),
    ],
    ids=name,
)
def test_barriers_wait_for_what_their_channel_has_held(barrier: bytes) -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    client.says(slow(1, b"1"), slow(1, b"2"), slow(2, b"3"))
    broker.gets(slow(1, b"1"))
    behind = [] if barrier == channel_close(1) else [publish(1, "k"), ack(1, 1), queue_declare(1, "q")]
    client.says(barrier, *behind, publish(2, "k"))
    broker.gets(publish(2, "k"))
    stage.advance(1.1)
    broker.gets(slow(1, b"2"), barrier, *behind)
    stage.advance(1)
    broker.gets(slow(2, b"3"))
    stage.over()


def test_a_barrier_with_nothing_held_waits_for_nobody() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    client.says(slow(2), slow(2))
    broker.heard()
    client.says(queue_delete(1, "q"))
    broker.gets(queue_delete(1, "q"))
    stage.over()


def test_a_barrier_behind_a_barrier() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    said = [slow(1, b"1"), slow(1, b"2"), queue_purge(1, "q"), slow(1, b"3"), queue_purge(1, "q"), slow(1, b"4")]
    client.says(*said)
    broker.gets(said[0])
    stage.advance(1.1)
    broker.gets(*said[1:3])
    stage.advance(1)
    broker.gets(*said[3:5])
    stage.advance(1)
    broker.gets(said[5])
    stage.over()


def test_a_publish_that_begins_behind_a_barrier_and_ends_after_it() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    late = publish(1, "k", b"x" * 50, cut=20)
    client.says(slow(1), slow(1), queue_purge(1, "q"), late[:70])
    stage.advance(1.1)
    broker.gets(slow(1), slow(1), queue_purge(1, "q"))
    client.says(late[70:])
    broker.gets(late)
    stage.over()


def test_a_connections_close_waits_for_what_is_held() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2, heartbeat=4)
    client.says(slow(1), slow(1), slow(2), close())
    broker.gets(slow(1))
    found: list[bytes] = []
    for _ in range(10):
        if close() in found:
            break
        stage.advance(1)
        client.says(HEARTBEAT)
        broker.says(HEARTBEAT)
        found += [each for each in broker.frames() if each != HEARTBEAT]
    assert b"".join(found) == slow(1) + slow(2) + close()
    broker.says(CLOSE_OK)
    assert [each for each in client.frames() if each != HEARTBEAT] == [CLOSE_OK]
    assert client.closed
    stage.finished()


def test_what_waits_behind_a_barrier_is_bounded() -> None:
    stage = Stage(publish=SLOW, max_message_size=10_000)
    client, broker = stage.open(1)
    client.says(slow(1), slow(1), queue_purge(1, "q"))
    said = [publish(1, "k", b"x" * 5000) for _ in range(20)]
    for each in said:
        client.says(each)
    assert not client.is_read()
    assert client.transport.unread >= 15 * 5000
    stage.advance(3)
    broker.gets(slow(1), slow(1), queue_purge(1, "q"), *said)
    assert client.is_read()
    stage.over()


def test_a_close_that_waits_is_answered_when_the_broker_closes_the_channel_first() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(slow(1), slow(1), channel_close(1))
    broker.heard()
    broker.says(channel_close(1, 404, "no exchange"))
    client.gets(channel_close(1, 404, "no exchange"), channel_close_ok(1))
    client.says(channel_close_ok(1))
    broker.gets(channel_close_ok(1))
    assert stage.stats.exchanges["/", "slow"].dropped == 1
    stage.over()


def test_a_protocol_error_behind_a_barrier() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(slow(1), slow(1), queue_purge(1, "q"), channel_open(1), publish(1, "never"))
    client.gets_nothing()
    stage.advance(1.1)
    client.gets_close(504)
    broker.gets(slow(1), slow(1), queue_purge(1, "q"), close(200, "the client broke the protocol"))
    stage.over()


# -- alarms of the broker ----------------------------------------------------------------------------------------------


def test_an_alarm_reaches_those_who_hear_it() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    broker.says(blocked("low on memory"))
    client.gets(blocked("low on memory"))
    broker.says(UNBLOCKED)
    client.gets(UNBLOCKED)
    stage.over()


def test_an_alarm_is_kept_from_those_who_do_not() -> None:
    stage = Stage()
    client, broker = stage.open(1, properties=DEAF)
    broker.says(blocked("low on memory"))
    client.says(publish(1, "k"))
    broker.gets_nothing()
    broker.says(UNBLOCKED)
    stage.advance(0.01)
    broker.gets(publish(1, "k"))
    client.gets_nothing()
    stage.over()


@pytest.mark.parametrize("properties", [PROPERTIES, DEAF], ids=["hears", "deaf"])
def test_an_alarm_that_one_connection_hears_of_holds_all_of_them(properties: dict[str, object]) -> None:
    stage = Stage()
    client, broker = stage.open(1)
    other, far = stage.open(1, properties=properties, confirms=True)
    stage.consumer(other, far, 1, "c")
    broker.says(blocked("disk"))
    other.says(publish(1, "k"))
    far.gets_nothing()
    other.gets(*([blocked("the broker has an alarm")] if properties is PROPERTIES else []))
    assert stage.counts()["blocked"]
    # Whoever is held goes on consuming.
    far.says(deliver(1, "c", 1))
    other.says(ack(1, 1))
    far.gets(ack(1, 1))
    other.heard()
    broker.says(UNBLOCKED)
    assert not stage.counts()["blocked"]
    stage.advance(0.01)
    far.gets(publish(1, "k"))
    other.gets(*([UNBLOCKED] if properties is PROPERTIES else []))
    client.gets(blocked("disk"), UNBLOCKED)
    stage.over()


def test_an_alarm_ends_with_the_connection_that_told_of_it() -> None:
    stage = Stage()
    _, broker = stage.open(1)
    other, far = stage.open(1)
    broker.says(blocked("disk"))
    other.says(publish(1, "k"))
    far.gets_nothing()
    broker.breaks()
    stage.advance(4)
    far.gets(publish(1, "k"))
    stage.over()


def test_an_alarm_of_a_minute_costs_nobody_anything() -> None:
    stage = Stage(hold=AmqpHold(timeout=5.0))
    client, broker = stage.open(1, properties=DEAF, confirms=True, heartbeat=10)
    gone, left = stage.open(1)
    broker.says(blocked("low on memory"))
    said = [publish(1, "k", b"%d" % number) for number in range(50)]
    client.says(*said)
    gone.says(*said)
    gone.leaves()
    for _ in range(60):
        stage.advance(1)
        client.says(HEARTBEAT)
        broker.says(HEARTBEAT)
    assert {HEARTBEAT} == set(client.frames()) == set(broker.frames())
    left.gets_nothing()
    broker.says(UNBLOCKED)
    stage.advance(0.1)
    assert b"".join(broker.frames()) == b"".join(said)
    found = left.frames()
    assert b"".join(found[:-1]) == b"".join(said)
    assert name(found[-1]).startswith("0: close ")
    stage.over()


# -- what is learnt ----------------------------------------------------------------------------------------------------


def learner() -> tuple[Stage, Peer, Peer]:
    """A port with a watched queue that is full."""
    stage = Stage(queues=(AmqpQueue(name="q", high=10, low=5),))
    client, broker = stage.open(1, 2, 3, 4, 5)
    gate = stage.listener.policy.depth_gates["/", "q"]
    gate.sampled(50, 0, stage.loop.now, stage.loop.now)
    return stage, client, broker


def leads_to_q(client: Peer, broker: Peer, exchange: str, key: str, channel: int = 2) -> bool:
    """Whether a publish there is held. A channel that has one held to the same exchange is no good for it."""
    broker.heard()
    client.says(publish(channel, key, exchange=exchange))
    return not broker.heard()


def test_bindings_are_learnt_and_forgotten_with_the_brokers_answer() -> None:
    stage, client, broker = learner()
    assert leads_to_q(client, broker, "", "q")
    assert not leads_to_q(client, broker, "e", "k")
    client.says(exchange_declare(1, "e", "topic"), queue_bind(1, "q", "e", "a.*"))
    broker.says(method(1, 40, 11), method(1, 50, 21))
    assert not leads_to_q(client, broker, "e", "b.c")
    assert leads_to_q(client, broker, "e", "a.b")
    client.says(queue_unbind(1, "q", "e", "a.*"))
    assert leads_to_q(client, broker, "e", "a.c", 3)
    broker.says(method(1, 50, 51))
    assert not leads_to_q(client, broker, "e", "a.d", 4)
    stage.over()


def test_an_empty_queue_name_is_the_queue_declared_last() -> None:
    stage, client, broker = learner()
    client.says(queue_declare(1, "q"))
    broker.says(queue_declare_ok(1, "q"))
    client.says(exchange_declare(1, "e"), queue_bind(1, "", "e", "k"))
    assert leads_to_q(client, broker, "e", "k")
    stage.over()


def test_exchanges_bound_to_exchanges() -> None:
    stage, client, broker = learner()
    client.says(exchange_declare(1, "a", "fanout"), exchange_declare(1, "b"), queue_bind(1, "q", "b", "k"))
    client.says(method(1, 40, 30, b"\0\0\1b\1a\0\0" + table()))
    assert leads_to_q(client, broker, "a", "k")
    stage.over()


def test_confirm_mode_is_entered_once() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(confirm_select(1), publish(1, "k"), confirm_select(1), publish(1, "k"))
    broker.says(confirm_select_ok(1), confirm_select_ok(1), ack(1, 2, True))
    client.gets(confirm_select_ok(1), confirm_select_ok(1), ack(1, 2, True))
    stage.over()


def test_how_long_queues_keep_messages_is_learnt_and_what_ends_with_its_broker() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    arguments = encode_table({"x-message-ttl": 5000, "x-expires": 2000})

    def declared(queue: str, bits: int) -> bytes:
        return method(1, 50, 10, b"\x00\x00" + short(queue) + bytes((bits,)) + arguments)

    client.says(
        declared("durable", 2), declared("auto-delete", 2 | 8), declared("exclusive", 4), declared("passive", 1)
    )
    client.says(exchange_declare(1, "transient", "fanout"))
    topology = stage.listener.policy.bindings
    assert topology.life("/", "", "durable") == (0.0, False)  # the broker may refuse it
    assert not topology.fleeting("/", "transient", "")
    broker.says(*[queue_declare_ok(1, queue) for queue in ("durable", "auto-delete", "exclusive", "passive")])
    broker.says(method(1, 40, 11))
    lives = {"durable": (5.0, False), "auto-delete": (2.0, True), "exclusive": (2.0, True), "passive": (0.0, False)}
    assert {queue: topology.life("/", "", queue) for queue in lives} == lives
    assert topology.fleeting("/", "transient", "")
    client.says(queue_declare(1, "durable"))
    broker.says(queue_declare_ok(1, "durable"))
    assert topology.life("/", "", "durable") == (0.0, False)
    client.leaves()


def test_a_declaration_that_is_refused_ends_no_messages_life() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    topology = stage.listener.policy.bindings
    lasting = b"\x00\x00" + short("q") + b"\x02" + encode_table({})
    brief = b"\x00\x00" + short("q") + b"\x04" + encode_table({"x-message-ttl": 1})
    client.says(
        method(1, 50, 10, lasting), method(1, 40, 10, b"\x00\x00" + short("e") + short("fanout") + b"\x02" + table())
    )
    broker.says(queue_declare_ok(1, "q"), method(1, 40, 11))
    client.says(exchange_declare(1, "e", "fanout"), exchange_declare(1, "other", "fanout"), method(1, 50, 10, brief))
    broker.says(channel_close(1, 406, "PRECONDITION_FAILED - inequivalent arg"))
    assert topology.life("/", "", "q") == (0.0, False)
    assert not topology.fleeting("/", "e", "")
    assert not topology.fleeting("/", "other", "")
    client.leaves()
    broker.leaves()
