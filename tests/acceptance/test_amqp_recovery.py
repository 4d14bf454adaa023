"""Client libraries with nothing but their own recovery, before a RabbitMQ that is restarted: through an AMQP port, and
through one with a spool. ``python -m bench.recovery`` has more of them, longer outages, and the seconds it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.recovery.kinds import KINDS
from bench.recovery.watching import Watched
from support.processes import Sidecar, ending, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar

#: Those that are cheap to start. Celery has tests of its own.
CLIENTS = {kind.name: kind for kind in KINDS if kind.name in ("pika", "aio-pika", "kombu", "amqplib")}


@pytest.fixture
def sidecar(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Sidecar]:
    """A port with and one without a spool for each client, so that none profits from another's tries."""
    config = behind_sidecar()
    config["upstreams"] = {}
    for name in CLIENTS:
        plain = behind_sidecar(rabbitmq.port)["upstreams"]["rabbitmq"]
        del plain["circuit_breaker"]  # as it comes
        spool = {"credentials": GUEST, "spool": {"path": str(tmp_path / "spool")}}
        config["upstreams"] |= {f"{name}-port": plain, f"{name}-spool": plain | {"amqp": spool}}
    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        yield sidecar.ready()


@pytest.fixture
def clients(rabbitmq: RabbitMQ, sidecar: Sidecar, tmp_path: Path) -> Iterator[list[Watched]]:
    with ExitStack() as stack:
        found = []
        for name, kind in CLIENTS.items():
            if kind.missing():
                continue  # npm's amqplib; test_amqp_clients.py complains
            for way in ("port", "spool"):
                port = sidecar.port(f"{name}-{way}")
                client = Watched(name, way, kind.prepare(tmp_path), port, f"recovery.{name}.{way}", tmp_path)
                found.append(stack.enter_context(client))
        yield found
        for client in found:
            client.terminate()
    for client in found:
        rabbitmq.delete(f"recovery.{client.kind}.{client.way}")


def working(clients: list[Watched], since: float) -> None:
    wait_for(lambda: all(client.working(since) or client.ended for client in clients), "all publish and consume")
    for client in clients:
        assert not client.ended, f"{client.kind}, {client.way}: {client.gone}"


def test_all_come_back_by_themselves(rabbitmq: RabbitMQ, clients: list[Watched]) -> None:
    working(clients, 0)
    begun = time.time()
    rabbitmq.restart_app()
    working(clients, time.time())
    # Nothing that it was told sounded like an answer to its login.
    told = [text for client in clients for text in client.failed(begun)]
    assert not [text for text in told if "authent" in text.lower() or "access" in text.lower()]
    # With a spool, the connection stands: nobody had anything to recover from.
    assert {
        client.kind: client.failed(begun) for client in clients if client.way == "spool" and client.failed(begun)
    } == {}
