"""How a sidecar is, in short: health, and of each listener what has passed in the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.admin import report
from sidecar.admin.commands import Commands
from sidecar.admin.snapshots import UpstreamSnapshot
from sidecar.core.stats import BUCKETS, Histogram, ListenerStats, counted

#: Rates and latencies are those of so many seconds; and what was worked out is good for that long.
WINDOW: Final = 10.0
FRESH: Final = 0.5


class _Sample:
    """What a listener had counted at a time."""

    __slots__ = ("at", "counts", "errors", "requests", "stats")

    def __init__(self, at: float, stats: ListenerStats) -> None:
        self.at = at
        self.stats = stats
        self.requests, self.errors, self.counts = counted(stats)


class Passed:
    """What passed within some seconds; None of them are known after one look."""

    __slots__ = ("counts", "errors", "requests", "seconds")

    def __init__(self, seconds: float, requests: int, errors: int, counts: list[int]) -> None:
        self.seconds = seconds
        self.requests = requests
        self.errors = errors
        self.counts = counts

    def as_dict(self) -> dict[str, float | None]:
        """Per second, and milliseconds; null where nothing is known yet, or nothing has passed."""
        if not self.seconds:
            return dict.fromkeys(("rate", "error_rate", "p50_ms", "p95_ms", "p99_ms"))
        spent = Histogram()
        spent.counts = self.counts
        known = any(self.counts)
        return {
            "rate": round(self.requests / self.seconds, 1),
            "error_rate": round(self.errors / self.requests, 4) if self.requests else None,
            **{f"p{n}_ms": round(spent.quantile(n / 100) * 1000, 1) if known else None for n in (50, 95, 99)},
        }


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
        inbound = commands.inbound()
        for name in self._samples.keys() - {"", *(it.name for it in upstreams)}:
            del self._samples[name]
        health = report.health(sidecar, upstreams)
        registry = health["registry"]
        passed = {it.name: self._passed(it.name, it.stats, at) for it in upstreams}
        self._last = {
            "service": sidecar.service,
            "id": sidecar.id,
            "phase": sidecar.phase,
            "waiting_for": health["waiting_for"],
            "faults": health["faults"],
            "status": health["status"],
            "app": health["app"],
            "registry": None if registry is None else {"up": registry["up"], "age": round(registry["age"])},
            "inbound": None
            if inbound is None
            else {
                "protocol": inbound.protocol,
                **self._passed("", inbound, at).as_dict(),
                "active": inbound.active,
                "pending": inbound.pending,
                "connections": inbound.client_connections,
            },
            "outbound": _together(passed[it.name] for it in upstreams if it.protocol == "http").as_dict(),
            "upstreams": {
                it.name: {**health["upstreams"][it.name], **_upstream(it, passed[it.name])} for it in upstreams
            },
        }
        return self._last

    def _passed(self, name: str, stats: ListenerStats, at: float) -> Passed:
        """What has passed a listener since the first look of the last seconds."""
        samples = self._samples.setdefault(name, deque())
        if samples and (samples[-1].stats is not stats or samples[-1].at <= at - WINDOW):
            samples.clear()  # of another upstream of that name, or nobody has asked for a while
        now = _Sample(at, stats)
        samples.append(now)
        while len(samples) > 2 and samples[1].at <= at - WINDOW:
            samples.popleft()
        first = samples[0]
        return Passed(
            at - first.at,
            now.requests - first.requests,
            now.errors - first.errors,
            [n - m for n, m in zip(now.counts, first.counts, strict=True)],
        )


def _together(parts: Iterable[Passed]) -> Passed:
    """What passed several listeners. One that is new changes nothing about how long the others were looked at."""
    found = Passed(0.0, 0, 0, [0] * (len(BUCKETS) + 1))
    for it in parts:
        found.seconds = max(found.seconds, it.seconds)
        found.requests += it.requests
        found.errors += it.errors
        found.counts = [n + m for n, m in zip(found.counts, it.counts, strict=True)]
    return found


def _upstream(it: UpstreamSnapshot, passed: Passed) -> dict[str, Any]:
    ejected = sum(1 for endpoint in it.endpoints if endpoint.ejected)
    breaker = it.breaker
    return {
        "protocol": it.protocol,
        "bind": it.bind,
        "balancer": it.balancer,
        **passed.as_dict(),
        "active": it.stats.active,
        "pending": it.stats.pending,
        "queued": None if it.stats.queue is None else it.stats.queue.requests,
        "breaker": None
        if breaker is None
        else {
            "state": breaker.state,
            "forced": breaker.forced,
            "held": None if breaker.held is None else report.hold_as_dict(breaker.held),
        },
        "endpoints": {
            "known": len(it.endpoints),
            "ejected": ejected,
            "unhealthy": sum(1 for endpoint in it.endpoints if endpoint.state == "unhealthy" and not endpoint.ejected),
            "warning": sum(1 for endpoint in it.endpoints if endpoint.state == "warning" and not endpoint.ejected),
        },
        "each": [report.endpoint_as_dict(endpoint) for endpoint in it.endpoints],
        "connections": it.stats.client_connections,
        "amqp": it.amqp,
    }
