"""A burst that is more than the disk takes at once: what has to wait for that waits for nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.amqp_settings import AmqpPublish
from support.amqp import Peer, ack, blocked, cut, publish
from support.kept import KeptStage

#: Together twice what may wait for the disk.
BODY = b"x" * 100_000
COUNT = 120


def rated(over: str) -> dict[str, Any]:
    return {"publish": (AmqpPublish(exchange="ai", rate=0.1, burst=1, over=over),)}


def burst(client: Peer) -> None:
    """Its publishes come as fast as they are read."""
    for number in range(COUNT):
        client.says(publish(1, f"k{number}", BODY, exchange="ai"))


def acked(client: Peer) -> int:
    """The highest tag that was acknowledged; nothing else was said."""
    highest = 0
    for frame in cut(client.heard()):
        assert frame[7:11] == b"\x00\x3c\x00\x50", frame
        highest = max(highest, int.from_bytes(frame[11:19], "big"))
    return highest


def to_the_disk(stage: KeptStage) -> None:
    """It takes what is there, again and again, within less than a second."""
    for _ in range(20):
        stage.disk.work()
        stage.advance(0.04)


def test_over_a_rate() -> None:
    stage = KeptStage(**rated("spool"))
    client, broker = stage.open(1, confirms=True)
    stage.disk.slow = True
    burst(client)
    broker.says(ack(1, 1))
    assert stage.listener.scheduler.messages > 0
    to_the_disk(stage)
    assert len(stage.disk.stored) == COUNT - 1
    assert acked(client) == COUNT
    assert stage.listener.scheduler.messages == 0
    assert client.is_read()
    stage.over()


@pytest.mark.parametrize("over", ["hold", "nack", "spool"])
def test_without_a_broker_a_rate_does_not_matter(over: str) -> None:
    stage = KeptStage(**rated(over))
    client, broker = stage.open(1, confirms=True)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    burst(client)
    to_the_disk(stage)
    assert len(stage.disk.stored) == COUNT
    assert acked(client) == COUNT
    stage.over()


def test_during_an_alarm() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    broker.says(blocked("low on memory"))
    client.heard()
    stage.disk.slow = True
    burst(client)
    to_the_disk(stage)
    assert len(stage.disk.stored) == COUNT
    assert acked(client) == COUNT
    stage.over()


def test_order_is_kept_when_the_disk_fails_meanwhile() -> None:
    stage = KeptStage(**rated("spool"))
    client, broker = stage.open(1, confirms=True)
    stage.disk.slow = True
    burst(client)
    broker.says(ack(1, 1))
    stage.disk.broken = "the disk is full"
    to_the_disk(stage)
    assert acked(client) == 1
    stage.disk.broken = ""
    for _ in range(5):
        to_the_disk(stage)
        stage.advance(1)
    keys = [int(message.routing_key[1:]) for message in stage.disk.stored.values()]
    assert keys == sorted(keys)
    assert len(keys) >= COUNT - 3  # the rate lets one go in ten seconds
    stage.complains("cannot store")
    stage.over()
