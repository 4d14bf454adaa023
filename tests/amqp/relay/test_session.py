"""Sessions from their connection to the broker to their end, and what they do by the clock."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.amqp_settings import AmqpHold, AmqpPublish
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.resilience.shared_limit import SharedLimit
from support.amqp import (
    CLOSE_OK,
    GREETING,
    HEARTBEAT,
    UNBLOCKED,
    Peer,
    Stage,
    ack,
    blocked,
    channel_close,
    channel_close_ok,
    channel_open_ok,
    close,
    close_of,
    connection_open,
    connection_open_ok,
    deliver,
    name,
    publish,
    queue_delete,
    start,
    start_ok,
    tune,
    tune_ok,
)
from support.clock import Clock

SLOW = (AmqpPublish(exchange="slow", rate=1.0, burst=1),)


def slow(channel: int, body: bytes = b"hello") -> bytes:
    """A publish to an exchange that takes one a second."""
    return publish(channel, "k", body, exchange="slow")


def bodies(broker: Peer) -> list[bytes]:
    """The bodies that a broker has got."""
    return [frame[7:-1] for frame in broker.frames() if frame[0] == 3]


def shut_down(stage: Stage) -> None:
    for session in list(stage.listener.sessions):
        session.shut_down("it is late")


# -- to a broker -------------------------------------------------------------------------------------------------------


def refused(stage: Stage, client: Peer, code: str) -> None:
    """The client's connection ends without a word: nothing that may be taken for an answer to its login."""
    client.gets_nothing()
    assert client.closed
    assert stage.listener.stats.rejected[code]


def test_no_broker_can_be_reached() -> None:
    stage = Stage()
    stage.loop.dialled = lambda host, port: "refuse"
    client = stage.connect()
    client.says(GREETING)
    refused(stage, client, "connect_failed")
    (broker,) = stage.listener.cluster.endpoints
    assert broker.last_error is not None
    assert broker.last_error.kind == "refused"
    assert stage.listener.stats.connect_failures["refused"]
    stage.finished()


def test_there_is_no_broker() -> None:
    stage = Stage(brokers=0)
    client = stage.connect()
    client.says(GREETING)
    refused(stage, client, "no_endpoints")
    stage.finished()


def test_a_broker_that_does_not_answer() -> None:
    for verdict in ("silent", "accept"):
        stage = Stage()
        stage.loop.dialled = lambda host, port, verdict=verdict: verdict  # type: ignore[misc]
        client = stage.connect()
        client.says(GREETING)
        stage.advance(0.9)
        client.gets_nothing()
        stage.advance(0.2)
        refused(stage, client, "connect_timeout")
        stage.finished()


def test_the_next_broker_is_tried() -> None:
    stage = Stage(brokers=3, upstream={"retry": RetrySettings(max_attempts=3, initial_delay=0.1, jitter=False)})
    dialled: list[int] = []

    def verdict(host: str, port: int) -> str:
        dialled.append(port)
        return ("refuse", "silent", "accept")[len(dialled) - 1]

    stage.loop.dialled = verdict
    client = stage.connect()
    client.says(GREETING)
    for _ in range(30):
        if not stage.accepted:
            stage.advance(0.1)
    broker = stage.broker()
    broker.gets(GREETING)
    broker.says(start())
    client.gets(start())
    assert len(set(dialled)) == 3
    stage.over()


def test_a_broker_that_hangs_up_before_its_start() -> None:
    stage = Stage(brokers=2, upstream={"retry": RetrySettings(max_attempts=2, initial_delay=0.1, jitter=False)})
    client = stage.connect()
    client.says(GREETING)
    stage.broker().leaves()
    stage.advance(0.2)
    broker = stage.broker()
    broker.says(start())
    client.gets(start())
    stage.over()


def test_an_open_breaker_is_told_too() -> None:
    stage = Stage(upstream={"circuit_breaker": CircuitBreakerSettings(failure_threshold=2)})
    stage.loop.dialled = lambda host, port: "refuse"
    for _ in range(2):
        client = stage.connect()
        client.says(GREETING)
        refused(stage, client, "connect_failed")
    client = stage.connect()
    client.says(GREETING)
    refused(stage, client, "circuit_open")
    stage.finished()


def test_a_client_that_leaves_while_a_broker_is_looked_for() -> None:
    for verdict in ("silent", "accept", "refuse"):
        stage = Stage(upstream={"retry": RetrySettings(max_attempts=3, initial_delay=1.0)})
        stage.loop.dialled = lambda host, port, verdict=verdict: verdict  # type: ignore[misc]
        client = stage.connect()
        client.says(GREETING)
        client.leaves()
        stage.over()


def test_waiting_for_a_place() -> None:
    stage = Stage(upstream={"bulkhead": BulkheadSettings(max_connections=1, max_pending=1, pending_timeout=5.0)})
    first, broker = stage.open(1)
    second = stage.connect()
    second.says(GREETING)
    third = stage.connect()
    third.says(GREETING)
    refused(stage, third, "overloaded")
    second.gets_nothing()
    first.says(close())
    broker.says(CLOSE_OK)
    stage.broker().says(start())
    second.gets(start())
    stage.over()


def test_waiting_for_a_limit_that_sidecars_share() -> None:
    asked: list[tuple[Any, Any]] = []

    def ask(limit: Any, lease: Any, tokens: int) -> bool:
        asked.append((limit, lease))
        return True

    def shared(name: str, rate: float, burst: int, key: str) -> SharedLimit:
        return SharedLimit(name, rate, burst, False, ask, Clock(), lambda: 0.5, {})

    stage = Stage(upstream={"rate_limit": RateLimitSettings(rate=1.0, burst=1, shared=True)}, shared=shared)
    first, second = stage.connect(), stage.connect()
    for client in (first, second):
        client.says(GREETING)
        client.gets_nothing()
    limit, lease = asked.pop()
    limit.answered(lease, 1, 0.0)
    stage.broker().says(start())
    first.gets(start())
    assert [it is lease for _, it in asked] == [True]
    limit.answered(lease, 0, 1.0)
    refused(stage, second, "rate_limited")
    stage.over()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_client_closes() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(close(200, "bye"))
    broker.gets(close(200, "bye"))
    broker.says(CLOSE_OK)
    client.gets(CLOSE_OK)
    assert client.closed
    assert broker.closed
    [record] = stage.lines.records
    assert record is not None
    stage.finished()


def test_answers_that_come_before_the_close_ok_are_not_lost() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k"), close())
    broker.says(ack(1, 1), CLOSE_OK)
    client.gets(ack(1, 1), CLOSE_OK)
    assert client.closed
    stage.finished()


def test_a_broker_closes() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k"))
    broker.heard()
    broker.says(ack(1, 1), close(320, "CONNECTION_FORCED - broker forced connection closure"))
    client.gets(ack(1, 1), close(320, "CONNECTION_FORCED - broker forced connection closure"))
    broker.gets(CLOSE_OK)
    assert broker.closed
    client.says(publish(1, "k"), CLOSE_OK)
    client.gets_nothing()
    assert client.closed
    stage.finished()


def test_both_close() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(close())
    broker.says(close(320, "shutdown"))
    broker.gets(close(), CLOSE_OK)
    client.gets(CLOSE_OK)
    assert client.closed
    assert broker.closed
    stage.finished()


def test_a_broker_that_goes_without_a_word() -> None:
    for how in ("leaves", "breaks"):
        stage = Stage()
        client, broker = stage.open(1)
        getattr(broker, how)()
        client.gets_close(320, "CONNECTION_FORCED", "10.0.0.1:5672")
        client.says(publish(1, "k")[:15])
        client.says(publish(1, "k")[15:], CLOSE_OK)
        assert client.closed
        stage.finished()


def test_a_broker_that_goes_instead_of_answering_a_close() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(close())
    broker.leaves()
    client.gets(CLOSE_OK)
    assert client.closed
    stage.finished()


def test_a_broker_that_does_not_answer_a_close() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.says(close())
    stage.advance(3.1)
    assert client.aborted
    assert broker.transport.gone
    stage.finished()


def test_a_broker_with_an_alarm_may_take_its_time_to_answer_a_close() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    broker.says(blocked("memory"))
    broker.stops_reading()
    client.says(close())
    stage.advance(60)
    assert client.connected
    broker.reads_again()
    broker.says(UNBLOCKED, CLOSE_OK)
    assert client.frames()[-1] == CLOSE_OK
    assert client.closed
    stage.finished()


def test_a_client_that_goes_without_a_word() -> None:
    for how in ("leaves", "breaks"):
        stage = Stage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        broker.says(deliver(1, "c", 1))
        getattr(client, how)()
        broker.gets_close(200, "client")
        broker.says(deliver(1, "c", 2), CLOSE_OK)
        assert broker.closed
        stage.finished()


def test_a_client_that_stops_listening_is_not_waited_for() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    broker.breaks()
    (endpoint,) = stage.listener.cluster.endpoints
    assert endpoint.last_error is not None
    assert endpoint.last_error[1:] == ("reset", "it closed the connection")
    stage.advance(3.1)
    assert client.aborted
    stage.finished()


def test_shutting_down_waits_for_the_clients_answer() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    shut_down(stage)
    client.gets_close(320, "it is late")
    broker.gets_close(200, "it is late")
    broker.says(CLOSE_OK)
    assert broker.closed
    client.gets_nothing()
    assert client.connected
    client.says(CLOSE_OK)
    assert client.closed
    stage.finished()


def test_a_frame_that_is_half_there_when_we_close() -> None:
    whole = publish(1, "k")
    for at in range(1, len(whole)):
        stage = Stage()
        client, _ = stage.open(1)
        client.says(whole[:at])
        shut_down(stage)
        client.gets_close(320)
        client.says(whole[at:], CLOSE_OK)
        assert client.closed
        stage.over()


def test_the_client_closes_when_we_do() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    shut_down(stage)
    client.says(close())
    assert client.frames()[-1] == CLOSE_OK
    assert client.closed
    broker.says(CLOSE_OK)
    stage.finished()


# -- connections that are full -----------------------------------------------------------------------------------------


def test_a_slow_broker_stops_its_client_and_no_other() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    other, far = stage.open(1)
    broker.stops_reading()
    big = publish(1, "k", b"x" * 100_000)
    client.says(big)
    assert not client.is_read()
    client.says(publish(1, "late"))
    other.says(publish(1, "k"))
    far.gets(publish(1, "k"))
    broker.reads_again()
    broker.gets(big, publish(1, "late"))
    assert client.is_read()
    stage.over()


def test_a_slow_client_stops_its_broker() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    client.stops_reading()
    said = [deliver(1, "c", tag, b"x" * 50_000) for tag in range(1, 5)]
    for each in said:
        broker.says(each)
    assert not broker.is_read()
    client.reads_again()
    client.gets(*said)
    assert broker.is_read()
    stage.over()


def test_a_client_is_read_from_when_the_broker_it_waited_for_is_gone() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    broker.stops_reading()
    client.says(publish(1, "k", b"x" * 100_000))
    client.says(publish(1, "k"))
    assert not client.is_read()
    broker.breaks()
    client.gets_close(320)
    client.says(CLOSE_OK)
    assert client.closed
    stage.finished()


def test_a_client_is_read_from_when_the_broker_closes_while_the_hold_is_full() -> None:
    stage = Stage(publish=SLOW, hold=AmqpHold(messages=2))
    client, broker = stage.open(1)
    other, _ = stage.open(1)
    client.says(slow(1))
    other.says(slow(1), slow(1), slow(1))
    client.says(slow(1))
    assert not client.is_read()
    assert not other.is_read()
    broker.says(close(320, "shutdown"))
    client.gets(close(320, "shutdown"))
    client.says(CLOSE_OK)
    assert client.closed
    stage.over()


def test_a_broker_is_read_from_when_the_client_it_waited_for_is_gone() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    client.stops_reading()
    for tag in range(1, 5):
        broker.says(deliver(1, "c", tag, b"x" * 50_000))
    assert not broker.is_read()
    client.breaks()
    broker.gets_close(200)
    broker.says(CLOSE_OK)
    assert broker.closed
    stage.finished()


# -- a full hold -------------------------------------------------------------------------------------------------------


def test_clients_are_not_read_from_while_the_hold_is_full() -> None:
    limit = AmqpPublish(exchange="slow", rate=0.5, burst=1)
    stage = Stage(publish=(limit,), hold=AmqpHold(messages=3))
    client, broker = stage.open(1)
    other, far = stage.open(1)
    client.says(*[slow(1, b"%d" % number) for number in range(4)])
    assert not client.is_read()
    client.says(publish(1, "k"))
    other.says(publish(1, "k"))
    far.gets(publish(1, "k"))
    assert bodies(broker) == [b"0"]
    # After a while the client is told, if it can hear.
    client.gets_nothing()
    stage.advance(0.9)
    client.gets_nothing()
    stage.advance(0.4)
    assert name(client.frames()[0]).startswith("0: blocked")
    stage.advance(0.8)
    assert bodies(broker) == [b"1", b"hello"]
    assert client.frames() == [UNBLOCKED]
    assert client.is_read()
    stage.over()


def test_a_client_that_waits_for_something_else_is_read_while_one_line_fills_the_hold() -> None:
    limits = tuple(AmqpPublish(exchange=exchange, rate=0.01, burst=1) for exchange in ("slow", "other"))
    stage = Stage(publish=limits, hold=AmqpHold(messages=16))
    client, _ = stage.open(1)
    other, _ = stage.open(1)
    client.says(*[slow(1) for _ in range(17)])
    assert not client.is_read()
    other.says(publish(1, "k", exchange="other"), publish(1, "k", exchange="other"))
    assert other.is_read()
    other.says(publish(1, "k", exchange="other"))
    assert not other.is_read(), "it has an eighth of the room itself"
    stage.advance(101)  # one of each has gone
    assert other.is_read()
    assert not client.is_read()
    stage.over()


# -- a client that is gone with something held -------------------------------------------------------------------------


def test_what_a_client_left_behind_goes_its_way() -> None:
    for how in ("leaves", "breaks"):
        stage = Stage(publish=SLOW, hold=AmqpHold(timeout=3.0))
        client, broker = stage.open(1, 2, heartbeat=4)
        client.says(*[slow(1, b"%d" % number) for number in range(20)], queue_delete(1, "q"), publish(1, "k", b"end"))
        getattr(client, how)()
        for _ in range(30):
            stage.advance(1)
            if not broker.transport.gone:
                broker.says(HEARTBEAT)
        frames = [frame for frame in broker.frames() if frame != HEARTBEAT]
        assert [frame[7:-1] for frame in frames if frame[0] == 3] == [*(b"%d" % n for n in range(20)), b"end"]
        assert name(frames[-1]).startswith("0: close ")
        assert frames[-5] == queue_delete(1, "q")
        stage.over()


def test_a_client_that_broke_the_protocol_loses_nothing_of_what_was_held() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(*[slow(1, b"%d" % number) for number in range(10)], b"\x05" * 8)
    client.gets_close(501)
    stage.advance(12)
    frames = broker.frames()
    assert [frame[7:-1] for frame in frames if frame[0] == 3] == [b"%d" % number for number in range(10)]
    assert close_of(frames[-1])[0] == 200
    assert client.aborted
    broker.says(CLOSE_OK)
    stage.finished()


def test_what_is_held_is_lost_with_the_broker_and_counted() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(*[slow(1) for _ in range(10)])
    broker.breaks()
    client.gets_close(320)
    assert stage.stats.exchanges["/", "slow"].dropped == 9
    assert stage.listener.scheduler.messages == 0
    stage.over()


def test_nothing_is_held_for_a_client_whose_broker_goes_while_it_is_gone() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(*[slow(1) for _ in range(10)])
    client.leaves()
    broker.breaks()
    stage.finished()


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_each_leg_has_heartbeats_of_its_own() -> None:
    stage = Stage()
    client, broker = stage.open(1, heartbeat=10)
    for _ in range(20):
        client.says(HEARTBEAT)
        broker.says(HEARTBEAT)
        client.heard()
        broker.heard()
        stage.advance(10)
        assert HEARTBEAT in client.frames()
        assert HEARTBEAT in broker.frames()
    stage.over()


def test_no_heartbeats_where_none_were_agreed_on() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.advance(3600)
    client.gets_nothing()
    broker.gets_nothing()
    stage.over()


def test_a_peer_that_says_nothing_any_more_is_gone() -> None:
    stage = Stage()
    client, broker = stage.open(1, heartbeat=10)
    for _ in range(4):
        stage.advance(5)
        broker.says(HEARTBEAT)
    assert client.connected
    stage.advance(5.1)
    assert client.aborted
    assert close_of(broker.frames()[-1])[0] == 200
    broker.says(CLOSE_OK)
    stage.finished()

    stage = Stage()
    client, broker = stage.open(1, heartbeat=10)
    for _ in range(5):
        stage.advance(5.1)
        client.says(HEARTBEAT)
    assert broker.transport.gone
    assert close_of(client.frames()[-1])[0] == 320
    stage.over()


def test_any_traffic_counts_as_a_heartbeat() -> None:
    stage = Stage()
    client, broker = stage.open(1, heartbeat=2)
    stage.consumer(client, broker, 1, "c")
    for tag in range(1, 60):
        client.says(publish(1, "k"))
        broker.says(deliver(1, "c", tag))
        stage.advance(0.5)
    assert client.connected
    assert HEARTBEAT not in client.frames()
    assert HEARTBEAT not in broker.frames()
    stage.over()


def test_whoever_is_not_read_from_is_not_taken_for_dead() -> None:
    stage = Stage(publish=SLOW, hold=AmqpHold(messages=1))
    limit = stage.config.publish[0]
    assert limit.rate == 1.0
    client, broker = stage.open(1, heartbeat=2)
    broker.says(blocked("memory"))
    client.says(publish(1, "k"), publish(1, "k"))
    assert not client.is_read()
    for _ in range(20):
        stage.advance(1)
        broker.says(HEARTBEAT)
    assert client.connected
    assert client.frames().count(HEARTBEAT) >= 9
    broker.says(UNBLOCKED)
    stage.advance(0.1)
    assert bodies(broker) == [b"hello", b"hello"]
    stage.over()


# -- many sessions -----------------------------------------------------------------------------------------------------


def test_the_failure_of_one_is_not_the_others() -> None:
    stage = Stage(brokers=2)
    pairs = [stage.open(1) for _ in range(6)]
    pairs[0][0].says(b"\x05" * 8)
    pairs[1][1].breaks()
    pairs[2][0].breaks()
    pairs[3][1].says(b"\x05" * 8)
    for client, broker in pairs[4:]:
        client.says(publish(1, "k"))
        broker.gets(publish(1, "k"))
        client.gets_nothing()
    stage.over()


def test_a_handshake_over_before_the_brokers_next_word() -> None:
    """Everything that a client may say in one go after ``tune``, and the broker's answers in one go, too."""
    stage = Stage()
    client = stage.connect()
    client.says(GREETING)
    broker = stage.broker()
    broker.says(start())
    client.says(start_ok())
    broker.says(tune())
    client.says(tune_ok(), connection_open())
    broker.says(connection_open_ok())
    client.says(close())
    broker.says(CLOSE_OK)
    assert client.closed
    stage.finished()


@pytest.mark.parametrize("number", [1, 2])
def test_the_last_words_of_a_closed_channel(number: int) -> None:
    stage = Stage()
    client, broker = stage.open(1, 2)
    client.says(channel_close(number), close())
    broker.gets(channel_close(number), close())
    broker.says(channel_close_ok(number), CLOSE_OK)
    client.gets(channel_close_ok(number), CLOSE_OK)
    stage.finished()


def test_open_ok_that_comes_after_our_close_is_not_passed_on() -> None:
    stage = Stage()
    client, broker = stage.open()
    client.says(b"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x0a\x00\xce")
    shut_down(stage)
    client.gets_close(320)
    broker.says(channel_open_ok(1))
    client.gets_nothing()
    stage.over()
