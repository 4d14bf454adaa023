"""Workloads are restarted with their sidecars while they work, and nothing is lost: ``python -m bench.rolling``, short
and slow. Two as ``sidecar exec``; the one that calls them in the order of a pod, whose sidecar starts first and stops
last."""

from __future__ import annotations

from pathlib import Path

from bench.rolling.mesh import roll
from support.consul import ConsulAgent
from support.rabbitmq import RabbitMQ


def test_no_request_and_no_message_is_lost(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with ConsulAgent() as consul:
        found = roll(tmp_path, "exec", consul.http_port, rabbitmq.port, (20.0, 20.0), rest=0.2, short=True)
    rabbitmq.delete("rolling")
    assert found.lost == []
    assert found.missing == []
    assert found.restarts == 2
    assert found.requests > 0
    assert found.messages > 0
