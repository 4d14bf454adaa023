"""Publishes, when the spool is full or its disk does not work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.amqp.failover.watchdog import STUCK_SECONDS
from sidecar.core.amqp_settings import AmqpPublish, AmqpSpool
from support.amqp import (
    HEARTBEAT,
    UNBLOCKED,
    ack,
    blocked,
    channel_close,
    channel_close_ok,
    channel_open_ok,
    confirm_select_ok,
    nack,
    publish,
)
from support.kept import SELECT, KeptStage, replayed


@pytest.mark.parametrize("before", [True, False])
def test_what_a_client_has_left_behind_is_tried_until_the_disk_takes_it(before: bool) -> None:
    """It leaves before the disk fails, or after."""
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    if before:
        client.leaves()
    stage.disk.broken = "no space"
    stage.disk.work()
    if not before:
        client.leaves()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


def test_what_the_disk_gives_back_is_not_written_on_a_channel_that_is_closed() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.says(blocked("memory"))
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"), channel_close(1))
    broker.gets(SELECT, channel_close(1))
    broker.says(channel_close_ok(1), UNBLOCKED)
    stage.disk.broken = "no space"
    stage.disk.work()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    broker.gets_nothing()
    stage.replay().gets(replayed(1, "q", b"a"))
    stage.complains("no space")
    stage.over()


def test_the_broker_dies_when_the_spool_is_full() -> None:
    stage = KeptStage(spool={"over": "nack", "max_bytes": 300})
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a" * 300), publish(1, "q", b"b"))
    stage.away()
    broker.breaks()
    client.gets(nack(1, 1), nack(1, 2))
    assert not stage.disk.stored
    stage.over()


def test_what_is_too_much_at_once_for_an_empty_spool_goes_into_it_one_by_one() -> None:
    """A channel has left it behind, as the broker confirms nothing. Nothing comes or goes then that tells of room."""
    stage = KeptStage(spool={"max_bytes": 1000})
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a" * 600), publish(1, "q", b"b" * 600), channel_close(1))
    stage.advance(STUCK_SECONDS / 2)
    broker.says(HEARTBEAT)
    stage.advance(STUCK_SECONDS / 2 + 0.5)
    broker.gets(SELECT, publish(1, "q", b"a" * 600), publish(1, "q", b"b" * 600), channel_close(1))
    stage.away()
    broker.says(channel_close_ok(1))
    assert not stage.disk.stored
    stage.advance(0.5)
    assert stage.disk.bodies() == [b"a" * 600]
    stage.there()
    replay = stage.replay()
    for body in (b"a" * 600, b"b" * 600):
        replay.gets(replayed(1, "q", body))
        replay.says(ack(1, 1 if body[:1] == b"a" else 2))
        stage.advance(0.5)
    assert not stage.disk.stored
    stage.over()


def test_a_larger_spool_takes_what_waits_for_it_though_nothing_leaves() -> None:
    stage = KeptStage(spool={"max_bytes": 1000})
    client, broker = stage.open(1, confirms=True)
    stage.away()
    broker.breaks()
    client.says(publish(1, "p", b"a" * 640), publish(1, "q", b"b"))
    client.gets(ack(1, 1))
    stage.advance(20)
    stage.port.configure(replace(stage.config, spool=AmqpSpool(path="/nowhere", max_bytes=2000)))
    stage.advance(0.1)
    client.gets(ack(1, 2))
    assert not stage.port.full
    stage.over()


def test_a_disk_that_does_not_work_is_not_tried_all_the_time() -> None:
    stage = KeptStage(spool={"max_bytes": 1000})
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "p", b"a"), publish(1, "q", b"b" * 1000))
    stage.disk.broken = "no space"
    stage.disk.slow = False
    stage.disk.work()
    stage.advance(5)
    stage.disk.broken = ""
    stage.advance(5)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


def test_a_key_that_stands_still_has_half_of_the_room_and_others_the_rest() -> None:
    rule = AmqpPublish(exchange="quick", rate=0.1, burst=1, over="spool")
    stage = KeptStage(spool={"max_bytes": 5000}, publish=(rule,))
    client, broker = stage.open(1, confirms=True)
    stage.away()
    broker.breaks()
    client.says(publish(1, "p", b"a" * 1000))
    client.gets(ack(1, 1))
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    client.says(publish(1, "p", b"b" * 1000))
    client.gets(ack(1, 2))
    client.says(publish(1, "p", b"c" * 1000))
    client.gets_nothing()
    assert dict(stage.listener.scheduler.waiting()) == {"room in the spool, for queue p of /": 1}
    client.says(publish(1, "k", b"d", exchange="quick"), publish(1, "k", b"e" * 1000, exchange="quick"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 4))
    stage.advance(0.1)
    client.gets(ack(1, 5))
    assert stage.disk.bodies() == [b"a" * 1000, b"b" * 1000, b"e" * 1000]
    assert not stage.port.full
    stage.over()


def test_what_a_rule_sends_to_a_disk_that_takes_nothing_goes_to_the_broker_as_the_rule_lets_it() -> None:
    stage = KeptStage(publish=(AmqpPublish(exchange="ex", rate=1.0, burst=1, over="spool"),))
    client, broker = stage.open(1, confirms=True)
    stage.disk.broken = "no space"
    client.says(publish(1, "k", b"a", exchange="ex"), publish(1, "k", b"b", exchange="ex"))
    broker.gets(publish(1, "k", b"a", exchange="ex"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 1))
    stage.advance(2)
    broker.gets(publish(1, "k", b"b", exchange="ex"))
    broker.says(ack(1, 2))
    client.gets(ack(1, 2))
    stage.complains("no space")
    stage.over()
