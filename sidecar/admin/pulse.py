"""How a sidecar is, in short: health, and of each upstream what has passed in the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sidecar.admin import report
from sidecar.admin.commands import Commands
from sidecar.admin.snapshots import UpstreamSnapshot
from sidecar.core.stats import Histogram, ListenerStats

#: Rates and latencies are those of so many seconds; and what was worked out is good for that long.
WINDOW: Final = 10.0
FRESH: Final = 0.5


class _Sample:
    """What a listener had counted at a time."""

    __slots__ = ("at", "counts", "errors", "requests", "stats")

    def __init__(self, at: float, stats: ListenerStats) -> None:
        self.at = at
        self.stats = stats
        self.requests = sum(stats.requests.values())
        self.errors = sum(n for (_, code), n in stats.requests.items() if code >= 500 or code == 5)
        self.counts = list(stats.duration.counts)


class Pulse:
    """Looks when it is asked. ``clock`` gives seconds."""

    def __init__(self, commands: Commands, clock: Callable[[], float]) -> None:
        self._commands = commands
        self._clock = clock
        self._samples: dict[str, deque[_Sample]] = {}
        self._at = -FRESH
        self._last: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """Return how the sidecar is: its health, and its upstreams by name. Those who ask together get the same."""
        at = self._clock()
        if at - self._at < FRESH:
            return self._last
        self._at = at
        commands = self._commands
        sidecar = commands.snapshot()
        upstreams = [commands.upstream(name) for name in commands.upstreams()]
        for name in self._samples.keys() - {it.name for it in upstreams}:
            del self._samples[name]
        health = report.health(sidecar, upstreams)
        registry = health["registry"]
        self._last = {
            "service": sidecar.service,
            "phase": sidecar.phase,
            "status": health["status"],
            "app": health["app"],
            "registry": None if registry is None else {"up": registry["up"], "age": round(registry["age"])},
            "upstreams": {it.name: {**health["upstreams"][it.name], **self._upstream(it, at)} for it in upstreams},
        }
        return self._last

    def _upstream(self, it: UpstreamSnapshot, at: float) -> dict[str, Any]:
        ejected = sum(1 for endpoint in it.endpoints if endpoint.ejected)
        breaker = it.breaker
        return {
            "protocol": it.protocol,
            **self._traffic(it, at),
            "active": it.stats.active,
            "pending": it.stats.pending,
            "breaker": None if breaker is None else {"state": breaker.state, "forced": breaker.forced},
            "endpoints": {
                "known": len(it.endpoints),
                "ejected": ejected,
                "warning": sum(1 for endpoint in it.endpoints if endpoint.state == "warning" and not endpoint.ejected),
            },
            "connections": it.stats.client_connections,
            "amqp": it.amqp,
        }

    def _traffic(self, it: UpstreamSnapshot, at: float) -> dict[str, float | None]:
        """Per second, and milliseconds; null where nothing is known yet, or nothing has passed."""
        samples = self._samples.setdefault(it.name, deque())
        if samples and (samples[-1].stats is not it.stats or samples[-1].at <= at - WINDOW):
            samples.clear()  # of another upstream of that name, or nobody has asked for a while
        now = _Sample(at, it.stats)
        samples.append(now)
        while len(samples) > 2 and samples[1].at <= at - WINDOW:
            samples.popleft()
        first = samples[0]
        passed = now.requests - first.requests
        if first is now:
            return {"rate": None, "error_rate": None, "p50_ms": None, "p99_ms": None}
        spent = Histogram(it.stats.duration.bounds)
        spent.counts = [n - m for n, m in zip(now.counts, first.counts, strict=True)]
        known = spent.count() > 0
        return {
            "rate": round(passed / (at - first.at), 1),
            "error_rate": round((now.errors - first.errors) / passed, 4) if passed else None,
            "p50_ms": round(spent.quantile(0.5) * 1000, 1) if known else None,
            "p99_ms": round(spent.quantile(0.99) * 1000, 1) if known else None,
        }
