"""Turns new inbound work away while the workload is being taken out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


class Drain(Filter):
    """Answers ``draining``. A peer sidecar takes that as "never delivered" and goes to another instance at once, so a
    rolling update loses nothing."""

    name: ClassVar[str] = "drain"
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")
    sides: ClassVar[tuple[str, ...]] = ("inbound",)

    def on_request(self, x: Exchange) -> Reply | None:
        if x.listener.draining:
            return Reply("draining", f"{x.listener.name} is being shut down")
        return None
