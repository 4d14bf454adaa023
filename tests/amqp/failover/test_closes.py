"""Closes of channels and connections: nothing that was published before them is lost by them."""

from __future__ import annotations

from dataclasses import replace

from sidecar.core.amqp_settings import AmqpPublish, AmqpSpool
from support.amqp import (
    CLOSE_OK,
    ack,
    channel_close,
    channel_close_ok,
    channel_open_ok,
    close,
    deliver,
    nack,
    name,
    publish,
    queue_declare,
    queue_declare_ok,
)
from support.kept import SELECT, KeptStage

SLOW = (AmqpPublish(exchange="slow", rate=0.1, burst=1),)


def test_closes_wait_for_the_confirms_of_the_broker() -> None:
    for how in ("channel", "connection", "left"):
        stage = KeptStage()
        client, broker = stage.open(1)
        client.says(publish(1, "q", b"a"))
        broker.gets(SELECT, publish(1, "q", b"a"))
        if how == "left":
            client.leaves()
        else:
            client.says(channel_close(1) if how == "channel" else close())
        broker.gets_nothing()
        broker.says(ack(1, 1))
        if how == "channel":
            broker.gets(channel_close(1))
            broker.says(channel_close_ok(1))
            client.gets(channel_close_ok(1))
        else:
            assert name(broker.frames()[0]).startswith("0: close ")
            broker.says(CLOSE_OK)
        assert not stage.disk.stored
        stage.over()


def test_closes_do_not_wait_for_ever() -> None:
    for whole in (False, True):
        stage = KeptStage()
        client, broker = stage.open(1, 2)
        stage.consumer(client, broker, 2, "c")
        client.says(publish(1, "q", b"a"), close() if whole else channel_close(1))
        broker.heard()
        for tag in range(1, 9):
            stage.advance(1)
            broker.says(deliver(2, "c", tag))
        client.heard()
        broker.gets(close() if whole else channel_close(1))
        broker.says(CLOSE_OK if whole else channel_close_ok(1))
        client.gets(CLOSE_OK if whole else channel_close_ok(1))
        assert stage.disk.bodies() == [b"a"]
        stage.over()


def test_what_is_not_confirmed_when_its_channel_is_closed_is_not_lost_with_the_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), channel_close(1))
    broker.heard()
    stage.away()
    broker.breaks()
    client.gets(channel_close_ok(1))
    assert stage.disk.bodies() == [b"a"]
    stage.over()


def test_nothing_follows_the_answer_to_a_close() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), channel_close(1), close())
    broker.heard()
    stage.away()
    broker.breaks()
    assert client.frames()[-1] == CLOSE_OK
    stage.over()


def test_a_close_that_crosses_the_end_of_the_broker_is_answered() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.says(channel_close(1, 404, "no queue"))
    broker.breaks()
    client.gets_close(404)
    client.says(channel_close(1))
    client.gets(channel_close_ok(1))
    stage.over()


# -- and the disk ------------------------------------------------------------------------------------------------------


def test_a_channel_is_closed_once_what_it_has_published_may_go_to_the_disk() -> None:
    stage = KeptStage(spool={"max_bytes": 700})
    client, broker = stage.open(1, 2)
    stage.away()
    broker.breaks()
    client.says(publish(2, "p", b"full" * 50))
    client.says(publish(1, "q", b"one"), publish(1, "q", b"two"), channel_close(1))
    client.gets_nothing()
    assert len(stage.disk.stored) == 1
    stage.port.configure(replace(stage.config, spool=AmqpSpool(path="/nowhere", max_bytes=4000)))
    stage.advance(2)
    client.gets(channel_close_ok(1))
    assert stage.disk.bodies()[1:] == [b"one", b"two"]
    stage.over()


def test_what_the_whole_spool_is_too_small_for_is_not_held_for_a_channel_that_is_closed() -> None:
    stage = KeptStage(spool={"max_bytes": 700})
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 2, "c")
    client.says(publish(1, "q", b"large" * 200), channel_close(1))
    broker.heard()
    for tag in range(1, 9):
        stage.advance(1)
        broker.says(deliver(2, "c", tag))
    client.heard()
    broker.gets(channel_close(1))
    broker.says(channel_close_ok(1))
    client.gets(channel_close_ok(1))
    assert not stage.disk.stored
    assert sum(each.dropped for each in stage.stats.exchanges.values()) == 1
    assert not stage.counts()["held"]
    stage.over()


def test_a_connection_is_closed_once_everything_is_on_the_disk() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"one"), close())
    client.gets_nothing()
    stage.disk.work()
    client.gets(CLOSE_OK)
    assert client.closed
    assert stage.disk.bodies() == [b"one"]
    stage.over()


def test_a_close_waits_for_what_the_disk_gave_back() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    client.says(close())
    stage.disk.broken = "no space"
    stage.disk.work()
    client.gets_nothing()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    client.gets(CLOSE_OK)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


# -- behind what waits -------------------------------------------------------------------------------------------------


def test_what_is_behind_refused_publishes_does_not_wait_for_a_broker() -> None:
    stage = KeptStage(spool={"over": "nack", "max_bytes": 400}, publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a", exchange="slow"), publish(1, "q", b"b" * 500, exchange="slow"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 1))
    client.says(channel_close(1))
    stage.away()
    broker.breaks()
    client.gets(nack(1, 2), channel_close_ok(1))
    stage.over()


def test_a_connection_may_be_closed_behind_what_waits() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(queue_declare(1, "unknown"), close())
    client.gets(CLOSE_OK)
    stage.over()


def test_a_connection_is_not_closed_before_publishes_that_wait_behind_something() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(queue_declare(1, "unknown"), publish(1, "unknown"), close())
    client.gets_nothing()
    stage.there()
    broker = stage.back()
    broker.says(channel_open_ok(1))
    broker.says(queue_declare_ok(1, "unknown"))
    broker.heard()
    broker.says(ack(1, 1), CLOSE_OK)
    client.gets(queue_declare_ok(1, "unknown"), CLOSE_OK)
    stage.over()
