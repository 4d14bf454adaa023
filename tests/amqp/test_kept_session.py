"""A session that outlives its broker, from one connection to the next."""

from __future__ import annotations

from support.amqp import (
    CLOSE_OK,
    ack,
    channel_open_ok,
    close,
    confirm_select_ok,
    connection_open_ok,
    publish,
    start,
    tune,
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
