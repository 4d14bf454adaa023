"""Lets only so many exchanges be under way at once; a few more wait their turn, the rest are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar.config.model import Bulkhead as Config
from sidecar.filters.api import WAIT, Wait
from sidecar.proxy.errors import Reply
from sidecar.resilience.limiter import Limiter
from sidecar.telemetry.stats import ListenerStats

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange


class Bulkhead:
    """The last filter before the first try: whoever passes holds a slot until the exchange ends. An HTTP/1.1 exchange
    needs a connection of its own, so the smaller of ``max_requests`` and ``max_connections`` counts; tunnels give both
    back for a place among ``tunnels``. For TCP and AMQP only ``max_connections`` counts. ``most`` is how many there may
    be where the settings have no limit; 0: any number."""

    def __init__(self, config: Config, stats: ListenerStats, clock: Callable[[], float], most: int = 0) -> None:
        self._most = most
        self.limiter = Limiter(_limit(config, stats) or most, config.max_pending)
        self.tunnels = Limiter(config.max_tunnels, 0)
        self._upgrades = stats.protocol == "http"
        self._pending_timeout = config.pending_timeout
        self._stats = stats
        self._clock = clock

    def resize(self, config: Config) -> None:
        """Other settings, for what comes from now on; what is under way stays counted."""
        self.limiter.max_pending = config.max_pending
        self._pending_timeout = config.pending_timeout
        self.limiter.resize(_limit(config, self._stats) or self._most)
        self.tunnels.resize(config.max_tunnels)

    def on_request(self, x: Exchange) -> Reply | Wait | None:
        if self._upgrades and self.tunnels.full:
            http: Any = x
            if http.head.upgrade:
                return no_more_tunnels(x.listener.name, self.tunnels)  # before the app has set one up
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


def no_more_tunnels(name: str, tunnels: Limiter) -> Reply:
    """The answer to an upgrade for which there is no room."""
    return Reply("overloaded", f"{tunnels.active} tunnels to {name} are open: no more (bulkhead.max_tunnels)", 1.0)


def _limit(config: Config, stats: ListenerStats) -> int:
    """How many may be under way at once; 0: any number."""
    limits = [config.max_connections]
    if stats.protocol == "http":
        limits.append(config.max_requests)
    return min((n for n in limits if n), default=0)
