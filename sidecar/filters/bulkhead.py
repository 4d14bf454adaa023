"""Lets only so many exchanges be under way at once; a few more wait their turn, the rest are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.config.model import Bulkhead as Config
from sidecar.filters.api import WAIT, Wait
from sidecar.proxy.errors import Reply
from sidecar.resilience.limiter import Limiter
from sidecar.telemetry.stats import ListenerStats

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange


class Bulkhead:
    """The last filter before the first try: whoever passes holds a slot until the exchange ends. An HTTP/1.1 exchange
    needs a connection of its own, so the smaller of ``max_requests`` and ``max_connections`` counts; tunnels give the
    slot back and keep the connection. For TCP only ``max_connections`` counts."""

    def __init__(self, config: Config, stats: ListenerStats, clock: Callable[[], float]) -> None:
        self.limiter = Limiter(_limit(config, stats), config.max_pending)
        self._pending_timeout = config.pending_timeout
        self._stats = stats
        self._clock = clock

    def resize(self, config: Config) -> None:
        """Other settings, for what comes from now on; what is under way stays counted."""
        self.limiter.max_pending = config.max_pending
        self._pending_timeout = config.pending_timeout
        self.limiter.resize(_limit(config, self._stats))

    def on_request(self, x: Exchange) -> Reply | Wait | None:
        limiter = self.limiter
        if limiter.try_acquire():
            x.slot = limiter
            return None
        if not self._pending_timeout or not limiter.enqueue(x):
            return Reply(
                "overloaded",
                f"{limiter.active} in progress and {limiter.pending} waiting: {x.listener.name} takes no more",
                1.0,
            )
        x.queue = limiter
        x.queue_deadline = min(x.deadline, self._clock() + self._pending_timeout)
        self._stats.pending += 1
        return WAIT

    def on_end(self, x: Exchange) -> None:
        queue = x.queue
        if queue is not None:
            x.queue = None
            self._stats.pending -= 1
            queue.forget(x)
        slot = x.slot
        if slot is not None:
            x.slot = None
            slot.release()


def _limit(config: Config, stats: ListenerStats) -> int:
    """How many may be under way at once; 0: any number."""
    limits = [config.max_connections]
    if stats.protocol == "http":
        limits.append(config.max_requests)
    return min((n for n in limits if n), default=0)
