"""What is started once for all tests, because it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rabbitmq import RabbitMQ, broker


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A broker that all tests share: what a test leaves in it has names that no other uses, and who stops, freezes or
    alarms it puts that right again."""
    with broker() as server:
        yield server
