"""A memory alarm of a real RabbitMQ: its clients behind a sidecar notice as little of it as can be. It lasts three
seconds here, a minute with ``SIDECAR_SOAK=1``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pamqp import commands

from support.amqp_clients.processes import CeleryWorker, done_by, problems, start_celery
from support.amqp_clients.raw import Listener, RawClient
from support.processes import Sidecar, ending, get, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar

SECONDS = 60.0 if os.environ.get("SIDECAR_SOAK") == "1" else 3.0
TASKS = int((SECONDS - 1) * 20)
HEARTBEAT = 1
BLOCKED = {"connection.blocked": True}


@contextmanager
def alarm(server: RabbitMQ) -> Iterator[None]:
    server.alarm(True)
    try:
        yield
    finally:
        server.alarm(False)


def blocked(sidecar: Sidecar) -> bool:
    found: bool = get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["blocked"]
    return found


def held(sidecar: Sidecar) -> int:
    found: int = get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["held"]["messages"]
    return found


def test_an_alarm_with_a_probe(rabbitmq: RabbitMQ, amqp_sidecar: Sidecar, celery_worker: CeleryWorker) -> None:
    before = celery_worker.trouble()  # another test may have restarted the broker
    port = amqp_sidecar.port("rabbitmq")
    for queue in ("alarm.work", "alarm.backlog"):
        rabbitmq.declare(queue)
    both = RawClient(port, heartbeat=HEARTBEAT, capabilities=BLOCKED).open_channel().confirms()
    deaf = RawClient(port, heartbeat=HEARTBEAT).open_channel().confirms()
    with Listener(both, ack=True) as hearing, Listener(deaf) as unhearing:
        # One connection that has published, and consumes with three messages under way at a time.
        for number in range(100):
            hearing.publish("alarm.backlog", b"%d" % number)
        wait_for(lambda: hearing.confirmed() == 100, "the backlog is there")
        with alarm(rabbitmq):
            wait_for(lambda: blocked(amqp_sidecar), "the sidecar knows")
            started = time.monotonic()
            celery = start_celery(port, "steady", str(TASKS))
            both.send(1, commands.Basic.Qos(prefetch_count=3), commands.Basic.Consume(queue="alarm.backlog"))
            sent = 0
            while time.monotonic() - started < SECONDS:
                for client in (hearing, unhearing):
                    client.publish("alarm.work", b"%d" % sent)
                sent += 1
                time.sleep(0.02)
            # The consumer's acknowledgements came through: all hundred were delivered, three at a time.
            wait_for(lambda: len(hearing.methods(commands.Basic.Deliver)) == 100, "all are delivered")
            assert rabbitmq.depth("alarm.backlog") == 0
            assert rabbitmq.depth("alarm.work") == 0
            assert unhearing.confirmed() == 0
            # A publish that waited for the end of the alarm would hold up those behind it.
            wait_for(lambda: held(amqp_sidecar) >= 2 * sent + TASKS, "Celery sends its tasks")
            ended = time.monotonic()
        wait_for(lambda: hearing.confirmed() == 100 + sent, "confirms of one that hears")
        wait_for(lambda: unhearing.confirmed() == sent, "confirms of one that does not")
        wait_for(lambda: len(hearing.methods(commands.Connection.Unblocked)) == 1, "it is told that it is over")
        assert len(hearing.methods(commands.Connection.Blocked)) == 1
        assert not unhearing.methods(commands.Connection.Blocked)
        for client in (hearing, unhearing):
            assert client.error is None
            assert client.longest_silence(started, ended) < 2 * HEARTBEAT  # §4.2.7: then it is taken for dead
            assert client.heartbeats() >= SECONDS - 1
    assert rabbitmq.depth("alarm.work") == 2 * sent
    for queue in ("alarm.work", "alarm.backlog"):
        rabbitmq.delete(queue)
    done = done_by(celery)
    assert problems(done) == {}
    assert "steady" in done
    assert celery_worker.trouble() == before


def test_an_alarm_that_a_publish_finds(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Without an account of the sidecar's own, the first publish of anybody tells of it."""
    for queue in ("alarm.found", "alarm.read"):
        rabbitmq.declare(queue)
    with rabbitmq.channel() as channel:
        for number in range(50):
            channel.basic_publish("", "alarm.read", b"%d" % number)
    with ending(Sidecar(tmp_path, behind_sidecar(rabbitmq.port))) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        port = sidecar.port("rabbitmq")
        first = RawClient(port, heartbeat=HEARTBEAT).open_channel().confirms()
        second = RawClient(port, heartbeat=HEARTBEAT, capabilities=BLOCKED).open_channel().confirms()
        consumer = RawClient(port, heartbeat=HEARTBEAT).open_channel()
        with Listener(first) as unlucky, Listener(second) as later, Listener(consumer, ack=True) as consuming:
            tries = 0

            def discovered() -> bool:
                """One publish finds it, or one more where the alarm had not reached the broker's end of it yet."""
                nonlocal tries
                if unlucky.confirmed() == tries:
                    unlucky.publish("alarm.found", b"it finds out")
                    tries += 1
                return blocked(sidecar)

            with alarm(rabbitmq):
                assert not blocked(sidecar)
                wait_for(discovered, "the sidecar knows")
                started = time.monotonic()
                for number in range(20):
                    for client in (unlucky, later):
                        client.publish("alarm.found", b"%d" % number)
                consumer.send(1, commands.Basic.Qos(prefetch_count=2), commands.Basic.Consume(queue="alarm.read"))
                wait_for(lambda: len(later.methods(commands.Connection.Blocked)) == 1, "who can hear it is told")
                wait_for(lambda: len(consuming.methods(commands.Basic.Deliver)) == 50, "acks get through")
                time.sleep(max(0.0, SECONDS - 3.0))
                ended = time.monotonic()
                assert rabbitmq.depth("alarm.found") == tries - 1
            wait_for(lambda: unlucky.confirmed() == 20 + tries and later.confirmed() == 20, "all are confirmed")
            for client in (unlucky, later, consuming):
                assert client.error is None
                assert client.longest_silence(started, ended) < 2 * HEARTBEAT
        assert rabbitmq.depth("alarm.found") == 40 + tries
    for queue in ("alarm.found", "alarm.read"):
        rabbitmq.delete(queue)
