"""Workloads are restarted with their sidecars while they work, and nothing is lost: ``python -m bench.rolling``, short
and slow. Of the two that are called one is in the order of a pod: its sidecar starts first, is drained before the app
is told, and stops last. The other one is ``sidecar exec``. The one that calls them is in the order of a pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rolling.mesh import roll
from support.consul import ConsulAgent
from support.rabbitmq import RabbitMQ


@pytest.mark.costly
def test_no_request_and_no_message_is_lost(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with ConsulAgent() as consul:
        found = roll(tmp_path, ["pod", "exec"], consul.http_port, rabbitmq.port, (40.0, 20.0), rest=0.2, callers=1)
    rabbitmq.delete("rolling")
    assert found.lost == []
    assert found.missing == []
    assert found.restarts == 3
    assert found.requests > 0
    assert found.messages > 0
