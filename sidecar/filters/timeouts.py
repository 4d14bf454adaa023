"""Sets the deadline of an exchange before anything in it can wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.config.model import Timeout
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


class Timeouts(Filter):
    """``timeout.request`` from the beginning to the answer's head. The other times (connect, idle, total, and the
    share of one try) belong to phases, and the exchange itself reads them where the phase begins."""

    name: ClassVar[str] = "timeout"

    def __init__(self, config: Timeout) -> None:
        self._request = min(config.request, config.total) if config.total else config.request

    def on_request(self, x: Exchange) -> None:
        x.deadline = x.started + self._request
