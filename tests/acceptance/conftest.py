"""A RabbitMQ behind the AMQP port of a real sidecar process, shared by the tests of its clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from support.amqp_clients.idle import idling
from support.amqp_clients.processes import CeleryWorker
from support.processes import Sidecar, ending
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar


@pytest.fixture(scope="session")
def amqp_sidecar(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One with no limits, and an account of its own to hear of alarms."""
    config = behind_sidecar(rabbitmq.port, credentials=GUEST)
    with ending(Sidecar(tmp_path_factory.mktemp("amqp"), config)) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        yield sidecar.ready()


@pytest.fixture(scope="session")
def amqp_port(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> int:
    """Where clients dial: the sidecar; with ``AMQP_DIRECT=1`` the broker itself, to see what of a failure is ours."""
    if os.environ.get("AMQP_DIRECT") == "1":
        return rabbitmq.port
    sidecar: Sidecar = request.getfixturevalue("amqp_sidecar")
    return sidecar.port("rabbitmq")


@pytest.fixture(scope="session")
def celery_worker(amqp_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryWorker]:
    """A worker that is ready, at the same port."""
    with ending(CeleryWorker(tmp_path_factory.mktemp("celery"), amqp_port)) as processes:
        worker = processes[0]
        assert isinstance(worker, CeleryWorker)
        yield worker.ready()


@pytest.fixture(scope="session")
def idlers(amqp_port: int) -> Iterator[dict[str, Future[None]]]:
    """Connections at the same port that are idle from when this is first asked for."""
    with idling(amqp_port) as found:
        yield found
