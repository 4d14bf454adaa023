"""A session that outlives its broker, from one connection to the next."""

from __future__ import annotations

import random

import pytest

from sidecar.core.amqp_settings import AmqpPublish
from sidecar.core.events import EVENTS
from sidecar.resilience.backoff import Backoff
from support.amqp import (
    CLOSE_OK,
    HEARTBEAT,
    ack,
    blocked,
    cancel,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select_ok,
    connection_open_ok,
    consume,
    consume_ok,
    cut,
    deliver,
    frame,
    header,
    method,
    publish,
    queue_declare,
    queue_declare_ok,
    short,
    start,
    tune,
    tx_select,
    tx_select_ok,
)
from support.kept import REPLAY, KeptStage, replayed

SLOW = (AmqpPublish(exchange="slow", rate=0.1, burst=1),)


def test_a_search_goes_on_until_there_is_a_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.advance(10)
    stage.away("silent")
    stage.advance(20)
    stage.there()
    for _ in range(2):
        stage.advance(5)
        assert stage.stats.detached == 1
        stage.broker().breaks()  # in the middle of the handshake
    stage.back(channel_open_ok(1))
    assert client.connected
    stage.over()


def test_who_has_found_a_broker_tells_the_replay() -> None:
    stage = KeptStage()
    stage.dispatcher._pool._backoff = Backoff(1e6, 1e6, random.Random(1))
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(publish(1, "q", b"one"))
    stage.advance(20)
    stage.there()
    for lost in (True, False):
        broker, login = stage.found()
        assert REPLAY not in login
        if lost:
            broker.breaks()  # it was not one yet
            stage.advance(0.1)
    broker.says(channel_open_ok(1), confirm_select_ok(1))
    stage.replay(seconds=0).gets(replayed(1, "q", b"one"))
    stage.over()


def test_a_search_ends_with_its_client() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    client.says(close())
    client.gets(CLOSE_OK)
    assert client.closed
    client, broker = stage.open(1)
    broker.breaks()
    stage.advance(1)
    stage.broker()
    client.leaves()
    stage.finished()


def test_a_broker_that_does_not_finish_a_login_is_given_up() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    stage.advance(1)
    broker = stage.broker()
    broker.says(start())
    stage.advance(20)
    assert broker.closed
    assert client.connected
    stage.over()


def test_a_login_that_is_refused_now_ends_the_connection_with_the_brokers_words() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    stage.advance(1)
    broker = stage.broker()
    broker.says(start())
    broker.says(close(403, "ACCESS_REFUSED - no longer"))
    client.gets_close(403, "no longer")
    client.says(CLOSE_OK)
    stage.finished()


def test_what_comes_with_the_end_of_the_login_is_heard() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    stage.advance(1)
    broker = stage.broker()
    broker.says(start())
    broker.says(tune(), connection_open_ok(), channel_open_ok(1))
    assert not stage.stats.detached
    client.gets_nothing()
    stage.over()


# -- a broker that is lost again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuts_down", [False, True])
def test_a_broker_that_is_lost_while_things_are_set_up_is_searched_again(shuts_down: bool) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    broker = stage.back()
    broker.heard()
    if shuts_down:
        broker.says(close(320, "shutdown"))
        broker.gets(CLOSE_OK)
    else:
        broker.breaks()
    assert stage.stats.detached == 1
    stage.back(channel_open_ok(1))
    client.gets_nothing()
    stage.over()


def test_tags_of_a_restoration_that_came_to_nothing_do_not_come_again() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), deliver(1, "c", 1, b"A"))
    client.gets(deliver(1, "c", 1, b"A"))
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), channel_open_ok(2), deliver(1, "c", 1, b"B"))
    client.gets(deliver(1, "c", 2, b"B"))
    broker.heard()
    client.says(ack(1, 1))
    broker.gets_nothing()
    client.says(ack(1, 2))
    broker.gets(ack(1, 1))
    stage.over()


def test_an_alarm_that_was_heard_of_in_a_restoration_ends_with_it() -> None:
    stage = KeptStage()
    _, broker = stage.open(1)
    broker.breaks()
    broker = stage.back()
    broker.says(blocked("memory"))
    assert stage.counts()["blocked"]
    broker.breaks()
    assert not stage.counts()["blocked"]
    stage.over()


def test_a_new_broker_that_has_said_as_much_as_the_last_one_is_not_taken_for_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    for _ in range(2):
        stage.away()
        broker.breaks()
        client.says(publish(1, "q", bits=1))
        stage.advance(6)
        stage.there()
        broker = stage.back()
        broker.says(channel_open_ok(1), confirm_select_ok(1))
        stage.advance(0.3)
        assert broker.connected
    stage.over()


def test_a_client_that_does_not_read_stops_the_next_broker_too() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c", no_ack=True)
    client.stops_reading()
    broker.says(deliver(1, "c", 1, b"x" * 100_000))
    assert not broker.is_read()
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), deliver(1, "c", 1, b"y"))
    assert not broker.is_read()
    client.reads_again()
    assert broker.is_read()
    assert not stage.stats.detached
    stage.over()


# -- what ends it ------------------------------------------------------------------------------------------------------


def test_a_transaction_does_not_outlive_its_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(tx_select(1))
    broker.says(tx_select_ok(1))
    client.heard()
    broker.breaks()
    client.gets_close(320)
    client.says(CLOSE_OK)
    stage.finished()


def test_a_queue_that_the_broker_named_is_gone() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    exclusive = method(1, 50, 10, b"\0\0" + short("") + b"\x04\0\0\0\0")
    client.says(exclusive)
    broker.says(queue_declare_ok(1, "amq.gen-1"))
    client.heard()
    broker.breaks()
    client.says(publish(1, "amq.gen-1", b"one"))
    client.gets_nothing()
    assert stage.disk.bodies() == [b"one"]
    broker = stage.back()
    client.gets_close(320, "amq.gen-1")
    assert broker.aborted
    client.says(CLOSE_OK)
    stage.over()


@pytest.mark.parametrize("code", [404, 406])
def test_what_the_broker_refuses_now_ends_it_at_once_or_after_some_tries(code: int) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(queue_declare(1, "q"))
    broker.says(queue_declare_ok(1, "q"))
    client.heard()
    broker.breaks()
    for _ in range(10 if code == 404 else 1):
        client.gets_nothing()
        broker = stage.back()
        broker.says(channel_open_ok(2), channel_close(2, code, "not any more"))
    client.gets_close(320, "not any more")
    client.says(CLOSE_OK)
    stage.finished()


# -- a broker that answers nothing -------------------------------------------------------------------------------------


def test_a_broker_that_answers_nothing_is_given_up() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"one"))
    stage.advance(4)
    assert broker.connected
    stage.advance(3)
    assert broker.aborted
    client.gets(ack(1, 1))
    assert stage.disk.bodies() == [b"one"]
    stage.over()


def test_a_broker_with_nothing_to_say_is_left_alone() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"one"))
    for _ in range(10):
        stage.advance(3)
        broker.says(HEARTBEAT)
    broker.says(ack(1, 1))
    stage.advance(100)
    assert broker.connected
    client.gets(ack(1, 1))
    stage.over()


def test_a_publish_that_was_held_for_long_is_no_sign_of_a_dead_broker() -> None:
    stage = KeptStage(publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a", exchange="slow"), publish(1, "q", b"b", exchange="slow"))
    broker.says(ack(1, 1))
    broker.heard()
    while not broker.heard():
        stage.advance(0.02)
    stage.advance(0.5)
    assert broker.connected
    stage.advance(5)
    assert broker.aborted
    stage.over()


def test_a_client_that_does_not_read_is_no_sign_of_a_dead_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    stage.consumer(client, broker, 1, "c")
    client.says(publish(1, "q", b"result"))
    client.stops_reading()
    broker.says(deliver(1, "c", 1, b"x" * 100_000), ack(1, 1))
    broker.says(deliver(1, "c", 2, b"x"), ack(1, 1))
    assert not broker.is_read()
    stage.advance(10)
    assert broker.connected
    stage.over()


# -- channels that the sidecar closes ----------------------------------------------------------------------------------


def test_a_channel_that_the_sidecar_has_closed_opens_again_without_a_broker() -> None:
    stage = KeptStage(max_message_size=1000)
    client, broker = stage.open(1)
    for _ in range(2):
        client.says(publish(1, "q", b"x" * 2000))
        client.gets_close(406)
        client.says(channel_close_ok(1))
        if not broker.transport.gone:
            stage.away()
            broker.breaks()
        client.says(channel_open(1))
        client.gets(channel_open_ok(1))
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1))
    broker.says(channel_open_ok(1))
    assert not stage.stats.detached
    stage.over()


def test_a_channel_that_the_sidecar_closes_while_queues_are_declared_anew_is_not_known_there() -> None:
    stage = KeptStage(max_message_size=1000)
    client, broker = stage.open(1)
    client.says(queue_declare(1, "q1"))
    broker.says(queue_declare_ok(1, "q1"))
    client.heard()
    broker.breaks()
    broker = stage.back()
    broker.gets(channel_open(2), queue_declare(2, "q1"))
    client.says(publish(1, "q", b"x" * 2000))
    client.gets_close(406)
    broker.gets_nothing()
    broker.says(channel_open_ok(2), queue_declare_ok(2, "q1"))
    broker.gets(channel_close(2))
    broker.says(channel_close_ok(2))
    broker.gets_nothing()
    assert not stage.stats.detached
    stage.over()


def test_a_channel_that_the_sidecar_closes_opens_again_when_that_broker_is_lost_too() -> None:
    """It would have answered the close."""
    stage = KeptStage(max_message_size=1000)
    client, broker = stage.open(1)
    broker.breaks()
    broker = stage.back()
    broker.gets(channel_open(1))
    client.says(publish(1, "q", b"x" * 2000))
    client.gets_close(406)
    broker.gets(channel_close(1, 200, "closed by the sidecar"))
    stage.away()
    broker.breaks()
    client.says(channel_close_ok(1), channel_open(1))
    client.gets(channel_open_ok(1))
    stage.there()
    broker = stage.back(channel_open_ok(1))
    broker.gets_nothing()
    stage.over()


def test_closes_of_both_sides_at_once_are_answered_though_the_broker_is_lost() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.stops_reading()
    broker.says(channel_close(1, 404, "NOT_FOUND"))
    client.says(channel_close(1))
    broker.breaks()
    client.reads_again()
    client.gets(channel_close(1, 404, "NOT_FOUND"), channel_close_ok(1))
    client.says(channel_close_ok(1), channel_open(1))
    client.gets(channel_open_ok(1))
    stage.over()


# -- draining ----------------------------------------------------------------------------------------------------------


def test_consumers_are_cancelled_when_there_is_a_broker_again() -> None:
    for recovering in (False, True):
        stage = KeptStage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        broker.breaks()
        if not recovering:
            stage.listener.stop_work()
        broker = stage.back()
        broker.heard()
        stage.listener.stop_work()
        broker.gets_nothing()
        broker.says(channel_open_ok(1), consume_ok(1, "c"))
        broker.gets(cancel(1, "c", no_wait=True))
        stage.over()


@pytest.mark.parametrize("answered", [False, True])
def test_a_caller_hears_that_its_answer_is_lost(answered: bool) -> None:
    """An answer of direct reply-to is for one connection to the broker, and comes over no other."""
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(consume(1, "amq.rabbitmq.reply-to", "answers", no_ack=True))
    broker.heard()
    broker.says(consume_ok(1, "answers"))
    client.heard()
    client.says(publish(1, "rpc", b"question", properties=b"\x02\x00" + short("amq.rabbitmq.reply-to")))
    broker.heard()
    broker.says(ack(1, 1))
    if answered:
        broker.says(deliver(1, "answers", 1, b"answer"))
        client.heard()
    stage.away()
    broker.breaks()
    if answered:
        assert client.connected
    else:
        client.gets_close(320)
    stage.over()


def test_a_client_whose_login_takes_no_end_keeps_nothing_in_the_spool() -> None:
    """Another one that comes in shows as well that the broker is there."""
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(publish(1, "q", b"one"))
    stage.advance(5)
    stage.there()
    stage.advance(3)
    stage.broker().says(start())  # and no more
    stage.open(1)
    until = stage.loop.now + 60
    logins: list[bytes] = []
    while stage.loop.now < until and not any(REPLAY in login for login in logins):
        stage.advance(0.5)
        while len(stage.accepted) > stage._taken:
            peer = stage.broker()
            peer.heard()
            peer.says(start())
            logins.append(peer.heard())
    assert any(REPLAY in login for login in logins)
    assert stage.stats.detached == 1
    stage.over()


def test_that_the_broker_goes_and_comes_is_told_once_each() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    before = EVENTS.newest
    for _ in range(2):
        stage.away()
        broker.breaks()
        stage.advance(30)
        stage.there()
        broker = stage.back(channel_open_ok(1))
    told = [event for event in EVENTS.since(before) if event.kind == "broker"]
    assert [event.details["up"] for event in told] == [False, True, False, True]
    assert {event.upstream for event in told} == {"rabbit"}
    assert client.connected
    stage.over()


@pytest.mark.parametrize(
    "said",
    [
        frame(3, 1, b"abc"),
        header(1, 3),
        cut(deliver(1, "c", 1))[0] + frame(3, 1, b"abc"),
        cut(deliver(1, "c", 1))[0] + header(1, 3) * 2,
        deliver(1, "c", 1, b"abc") + frame(3, 1, b"d"),
        b"".join(cut(deliver(1, "c", 1, b"abc"))[:2]) + frame(3, 1, b"abcd"),
    ],
)
@pytest.mark.parametrize("paused", [False, True])
def test_a_broker_whose_content_belongs_to_no_message_breaks_the_protocol(said: bytes, paused: bool) -> None:
    """All that is kept of its messages, while they are not whole, counts on that."""
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(not paused)
    broker.says(said)
    broker.says(deliver(1, "c", 2))
    if not paused or said[:1] != b"\x01":
        assert broker.transport.gone
    stage.over()
