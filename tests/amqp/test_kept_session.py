"""A session that outlives its broker, from one connection to the next."""

from __future__ import annotations

import pytest

from support.amqp import (
    CLOSE_OK,
    GREETING,
    HEARTBEAT,
    Peer,
    ack,
    cancel,
    cancel_ok,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select_ok,
    connection_open,
    connection_open_ok,
    consume,
    consume_ok,
    cut,
    deliver,
    get,
    get_empty,
    method,
    publish,
    qos,
    qos_ok,
    queue_declare,
    queue_declare_ok,
    queue_delete,
    short,
    start,
    start_ok,
    tune,
    tune_ok,
    tx_select,
    tx_select_ok,
)
from support.kept import KeptStage


def test_publishes_go_to_the_disk_while_there_is_no_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"one"))
    broker.breaks()
    client.gets(ack(1, 1))
    client.says(publish(1, "q", b"two"))
    client.gets(ack(1, 2))
    assert stage.disk.bodies() == [b"one", b"two"]
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    client.says(publish(1, "q", b"behind"))
    broker.gets_nothing()
    client.gets(ack(1, 3))
    stage.disk.empty()
    client.says(publish(1, "q", b"straight"))
    assert b"straight" in broker.heard()
    broker.says(ack(1, 1))
    client.gets(ack(1, 4))
    stage.over()


def test_a_search_goes_on_until_there_is_a_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.loop.dialled = lambda host, port: "refuse"
    broker.breaks()
    stage.advance(10)
    stage.loop.dialled = lambda host, port: "silent"
    stage.advance(20)
    stage.loop.dialled = lambda host, port: "accept"
    for _ in range(2):
        stage.advance(5)
        assert stage.stats.detached == 1
        stage.broker().breaks()  # in the middle of the handshake
    stage.back(channel_open_ok(1))
    assert client.connected
    assert stage.port.found == 1
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


def test_a_broker_that_is_lost_while_things_are_set_up_is_searched_again() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    broker = stage.logged_in()
    broker.breaks()
    stage.back(channel_open_ok(1))
    client.gets_nothing()
    stage.over()


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


# -- what a client hears without a broker ------------------------------------------------------------------------------


def test_a_stand_in_answers_and_what_it_has_said_is_so() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(queue_declare(1, "known"))
    broker.says(queue_declare_ok(1, "known", 7, 1))
    client.heard()
    broker.breaks()
    client.says(channel_open(2), qos(2, 5), queue_declare(2, "known"), consume(2, "known", "c"), get(2, "known"))
    client.gets(channel_open_ok(2), qos_ok(2), queue_declare_ok(2, "known"), consume_ok(2, "c"), get_empty(2))
    client.says(cancel(2, "c"), consume(2, "known", "d"), channel_close(1))
    client.gets(cancel_ok(2, "c"), consume_ok(2, "d"), channel_close_ok(1))
    broker = stage.logged_in()
    broker.heard()
    broker.says(channel_open_ok(1), queue_declare_ok(1, "known"), channel_close_ok(1))
    broker.gets(channel_close(1), channel_open(2), qos(2, 5), consume(2, "known", "d"))
    broker.says(channel_open_ok(2), qos_ok(2), consume_ok(2, "d"), deliver(2, "d", 1))
    client.gets(deliver(2, "d", 1))
    stage.over()


def test_what_only_a_broker_can_answer_waits_for_it_and_all_behind_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    broker.breaks()
    client.says(queue_delete(1, "q"), publish(1, "q", b"behind"), qos(2, 1))
    client.gets(qos_ok(2))
    assert stage.disk.bodies() == []
    broker = stage.logged_in()
    broker.heard()
    broker.says(channel_open_ok(1), channel_open_ok(2), qos_ok(2))
    assert cut(broker.heard())[0] == queue_delete(1, "q")
    deleted = method(1, 50, 41, b"\0\0\0\0")
    broker.says(deleted)
    client.gets(deleted)
    stage.over()


def test_a_channel_that_has_waited_can_be_closed() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    client.says(queue_delete(1, "q"), qos(1, 1))
    client.says(channel_close(1))
    client.gets(channel_close_ok(1))
    assert stage.counts()["channels"] == 0
    client.says(channel_open(1))
    client.gets(channel_open_ok(1))
    stage.over()


def test_who_waits_too_long_is_told() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.loop.dialled = lambda host, port: "refuse"
    broker.breaks()
    client.says(queue_delete(1, "q"))
    stage.advance(119)
    client.gets_nothing()
    stage.advance(2)
    client.gets_close(320, "queue.delete of 'q'")
    client.says(CLOSE_OK)
    stage.finished()


def test_a_channel_is_closed_once_what_it_has_published_may_go_to_the_disk() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    stage.disk.full = True
    client.says(publish(1, "q", b"one"), publish(1, "q", b"two"), channel_close(1))
    client.gets_nothing()
    stage.disk.full = False
    stage.port.keeper.room()
    stage.advance(0.1)
    client.gets(channel_close_ok(1))
    assert stage.disk.bodies() == [b"one", b"two"]
    stage.over()


def test_a_connection_is_closed_once_everything_is_on_the_disk() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"one"), close())
    client.gets_nothing()
    stage.disk.work()
    client.gets(CLOSE_OK)
    assert client.closed
    assert stage.disk.bodies() == [b"one"]
    stage.finished()


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
    stage.advance(1)
    broker = stage.logged_in()
    client.gets_close(320, "amq.gen-1")
    client.says(CLOSE_OK)
    stage.finished()


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
        broker = stage.logged_in()
        broker.says(channel_open_ok(2), channel_close(2, code, "not any more"))
    client.gets_close(320, "not any more")
    client.says(CLOSE_OK)
    stage.finished()


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


# -- clients that come meanwhile ---------------------------------------------------------------------------------------


def arriving(stage: KeptStage, password: str = "let in", vhost: str = "/") -> Peer:
    stage.loop.dialled = lambda host, port: "refuse"
    client = stage.connect()
    client.says(GREETING)
    assert b"RabbitMQ" in client.heard()
    client.says(start_ok(response=f"\0guest\0{password}"))
    return client


def test_a_client_comes_in_without_a_broker() -> None:
    stage = KeptStage()
    client = arriving(stage)
    client.gets(tune(heartbeat=60))
    client.says(tune_ok(), connection_open())
    client.gets(connection_open_ok())
    client.says(channel_open(1), publish(1, "q", b"early"))
    client.gets(channel_open_ok(1))
    assert stage.disk.bodies() == [b"early"]
    assert stage.stats.detached == 1
    stage.loop.dialled = lambda host, port: "accept"
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    client.says(close())
    broker.gets(close())
    broker.says(CLOSE_OK)
    client.gets(CLOSE_OK)
    stage.over()


@pytest.mark.parametrize(("password", "vhost"), [("wrong", "/"), ("let in", "closed")])
def test_others_are_told_to_come_again(password: str, vhost: str) -> None:
    stage = KeptStage()
    client = arriving(stage, password, vhost)
    if vhost == "closed":
        client.gets(tune(heartbeat=60))
        client.says(tune_ok(), connection_open(vhost))
    client.gets_close(320, "there is no broker at present")
    client.says(CLOSE_OK)
    stage.finished()


def test_one_that_leaves_at_the_door() -> None:
    stage = KeptStage()
    for _ in range(3):
        arriving(stage).leaves()
    stage.finished()
