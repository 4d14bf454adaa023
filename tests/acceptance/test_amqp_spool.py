"""What is promised of a spool, with real clients, a real RabbitMQ, and the one or the other killed or stopped: nothing
is lost, nobody notices, order is kept, and little comes twice.

``SIDECAR_SOAK=1`` makes of each what was promised: a minute without a broker under 2000 messages a second, a hundred
kills of the sidecar.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.confirmed import Confirmed
from support.processes import wait_for
from support.rabbitmq import RabbitMQ
from support.spooled import WINDOW, Spooled, bodies, first_times, numbers
from support.wire import Wire

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
RATE = 1000 if SOAK else 100  # messages a second, of each client
QUEUES = {"celery": "spool.celery", "aio_pika": "spool.aio_pika"}


class Work:
    """Both clients at work; what has become of that."""

    def __init__(self, spooled: Spooled, count: int) -> None:
        self.publishers = {kind: spooled.publisher(kind, queue, RATE, count) for kind, queue in QUEUES.items()}

    def check(self, broker: RabbitMQ, spooled: Spooled, outages: int, seconds: float) -> None:
        """Let them end by themselves, within that time, or now."""
        deadline = time.monotonic() + seconds
        results = {
            kind: publisher.result(max(deadline - time.monotonic(), 0.01))
            for kind, publisher in self.publishers.items()
        }
        spooled.empty(120)
        for kind, result in results.items():
            count = result["published"]
            assert result["error"] is None, f"{kind}: {result}"
            found = numbers(bodies(broker, QUEUES[kind], count, 60))
            first = first_times(found)
            missing = set(range(count)) - set(first)
            assert not missing, f"{kind}: {len(missing)} of {count} are missing, as {sorted(missing)[:10]}"
            assert first == list(range(count)), f"{kind}: out of order"
            assert len(found) - count <= WINDOW * outages, f"{kind}: {len(found) - count} came twice"
        assert not spooled.errors()

    def close(self) -> None:
        for publisher in self.publishers.values():
            publisher.close()


@pytest.fixture
def spooled(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Spooled]:
    for queue in QUEUES.values():
        rabbitmq.declare(queue, durable=True)
    with Spooled(tmp_path, rabbitmq.port) as found:
        yield found
    rabbitmq.thaw()
    if rabbitmq.popen.poll() is not None:
        rabbitmq.start()
    rabbitmq.ready()
    for queue in QUEUES.values():
        rabbitmq.delete(queue)


def works(broker: RabbitMQ, spooled: Spooled, outages: list[Callable[[], None]], between: float, count: int) -> None:
    work = Work(spooled, count)
    try:
        for queue in QUEUES.values():  # a login that an outage cuts off is not let in: that is another subject
            wait_for(functools.partial(broker.depth, queue), f"{queue} is published to")
        for outage in outages:
            outage()
            time.sleep(between)
        work.check(broker, spooled, len(outages), 200 if SOAK else 0)
    finally:
        work.close()


def killed(broker: RabbitMQ, seconds: float) -> Callable[[], None]:
    def outage() -> None:
        broker.kill()
        time.sleep(seconds)
        broker.start()
        broker.ready()

    return outage


def frozen(broker: RabbitMQ, seconds: float) -> Callable[[], None]:
    def outage() -> None:
        broker.freeze()
        time.sleep(seconds)
        broker.thaw()

    return outage


def restarted(broker: RabbitMQ) -> Callable[[], None]:
    def outage() -> None:
        broker.restart()

    return outage


@pytest.mark.costly
def test_the_broker_is_killed_and_frozen(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    if SOAK:
        works(rabbitmq, spooled, [killed(rabbitmq, 60)], 5, 100_000)
    else:
        works(rabbitmq, spooled, [killed(rabbitmq, 1), frozen(rabbitmq, 6.5)], 0.5, 100_000)


@pytest.mark.skipif(not SOAK, reason="it takes minutes: set SIDECAR_SOAK=1")
def test_the_broker_is_killed_every_ten_seconds(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    works(rabbitmq, spooled, [killed(rabbitmq, 2)] * 12, 8, 150_000)


@pytest.mark.skipif(not SOAK, reason="it takes minutes: set SIDECAR_SOAK=1")
def test_the_broker_is_restarted_every_ten_seconds(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    works(rabbitmq, spooled, [restarted(rabbitmq)] * 12, 7, 150_000)


@pytest.mark.skipif(not SOAK, reason="it takes minutes: set SIDECAR_SOAK=1")
def test_the_broker_is_frozen_for_a_minute(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    works(rabbitmq, spooled, [frozen(rabbitmq, 60)], 5, 100_000)


def test_the_sidecar_is_killed(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """At any moment, with a broker and without: what it has confirmed arrives."""
    rng = random.Random(4)
    rabbitmq.declare("spool.kills", durable=True)
    with Wire(rabbitmq.port) as wire, Spooled(tmp_path, wire.port) as spooled:
        work = Confirmed(spooled.port, "spool.kills")
        for kills in itertools.count():
            if kills >= (100 if SOAK else 4) and len(work.acked) > 500:  # a busy machine confirms less in a time
                break
            if rng.random() < 0.5:
                work.run(rng.uniform(0, 0.3))
            wire.cut()
            work.run(rng.uniform(0.05, 0.3))
            if rng.random() < 0.5:
                wire.mend()
                work.run(rng.uniform(0, 0.5))
            spooled.sidecar.kill()
            wire.mend()
            spooled.start()
        spooled.empty(60)
        found = numbers(bodies(rabbitmq, "spool.kills", len(work.acked), 60))
        missing = work.acked - set(found)
        assert not missing, f"{len(missing)} of {len(work.acked)} are missing"
        assert not spooled.errors()
    rabbitmq.delete("spool.kills")
