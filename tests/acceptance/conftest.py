"""A RabbitMQ behind the AMQP port of a real sidecar process, shared by the tests of its clients."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.processes import Sidecar, ending
from support.rabbitmq import RabbitMQ, behind_sidecar


@pytest.fixture(scope="session")
def amqp_sidecar(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One with no limits configured."""
    config = behind_sidecar(rabbitmq.port)
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
