"""Finds the endpoints of a cluster that fail or dawdle while the others do not, and has them ejected.

It is told of every try (it is one of :attr:`~sidecar.endpoints.cluster.Cluster.watchers`), so it is there only where
``health.eject`` asks for it. A share of failures is judged as they come; latencies once a second, all together.

An answer that fails says nothing about how quick an endpoint is: those that fail fast must not look fast, nor make the
others look slow. What was given up for want of an answer, or for a quicker one, took at least that long, and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.resilience.ejection import TRIAL, EjectionRules
from sidecar.resilience.outcomes import LATENCIES, LEAST_ENDPOINTS, Outcomes, median, slow

if TYPE_CHECKING:
    from sidecar.endpoints.cluster import Cluster
    from sidecar.endpoints.endpoint import Endpoint

#: Seconds from one look at all latencies to the next.
LOOK: Final = 1.0
#: What is said of tries that did not fail: nothing, or that another one beside it was quicker.
_NO_FAILURE: Final = ("", "hedged")


class Outliers:
    """One cluster's, by those rules."""

    __slots__ = ("_clock", "_cluster", "_next_look", "_rules", "_usual")

    def __init__(self, cluster: Cluster, rules: EjectionRules, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._rules = rules
        self._clock = clock
        self._next_look = 0.0
        #: By subset, the median of the medians at the last look; 0: it is not known. Versions differ, so each endpoint
        #: is compared with its own kind.
        self._usual: dict[str, float] = {}

    def tell(self, endpoint: Endpoint, took: float, status: int, failure: str) -> None:
        """A try has come to its end: see :data:`~sidecar.endpoints.cluster.Watcher`."""
        if endpoint.ejected_until:
            return  # it was begun before that
        rules = self._rules
        outcomes = endpoint.outcomes
        if outcomes is None:
            outcomes = endpoint.outcomes = Outcomes(rules.window)
        now = self._clock()
        bad = failure not in _NO_FAILURE or status >= 500
        outcomes.errors.count(now, bad)
        if failure == "timeout" or not (bad or status == 429):
            outcomes.latencies.add(now, took)
        if endpoint.trial:
            endpoint.trial -= 1
            endpoint.returned = now  # the time of a trial is none that it went well
            if not endpoint.trial:
                self._judge(endpoint, outcomes, now)
        elif bad and rules.error_rate:
            self._count(endpoint, outcomes, rules.min_requests)
        if now >= self._next_look and rules.latency:
            self._next_look = now + LOOK
            self._look(now)

    def abandoned(self, endpoint: Endpoint, seconds: float) -> None:
        """Nobody waits any more for a try that has had no answer for so long. It would have taken longer, so it counts
        where that is slow already; what was given up sooner says nothing."""
        outcomes = endpoint.outcomes
        usual = self._usual.get(endpoint.subset, 0.0)
        if usual and not endpoint.ejected_until and slow(seconds, usual, self._rules.latency or inf):
            if outcomes is None:
                outcomes = endpoint.outcomes = Outcomes(self._rules.window)
            outcomes.latencies.add(self._clock(), seconds)

    def _count(self, endpoint: Endpoint, outcomes: Outcomes, least: int) -> bool:
        """Have it ejected when too many of its tries failed."""
        rules = self._rules
        bad, total = outcomes.errors.bad, outcomes.errors.total
        if not bad or total < least or bad < rules.error_rate * total:
            return False
        words = f"{bad} of {total} requests failed within {rules.window:g} s"
        return self._cluster.eject(endpoint, "error_rate", words)

    def _judge(self, endpoint: Endpoint, outcomes: Outcomes, now: float) -> None:
        """Its trial is over: it goes again, or is in again."""
        rules = self._rules
        if rules.error_rate and self._count(endpoint, outcomes, TRIAL):
            return
        if rules.latency:
            own = outcomes.latencies.median(now - rules.window, min(TRIAL, self._least))
            found = list(self._medians(now, endpoint.subset, endpoint).values())
            # What is usual includes its own, as in every other look.
            if own and len(found) >= LEAST_ENDPOINTS - 1 and self._late(endpoint, own, median([*found, own])):
                return
        self._cluster.passed(endpoint)

    def _look(self, now: float) -> None:
        """Compare all that have been asked often enough, each with those of its subset."""
        for subset in dict.fromkeys([endpoint.subset for endpoint in self._cluster.endpoints]):
            self._compare(subset, self._medians(now, subset))

    def _compare(self, subset: str, medians: dict[Endpoint, float]) -> None:
        """Have those ejected that are late, the slowest first."""
        if len(medians) < LEAST_ENDPOINTS:
            self._usual[subset] = 0.0
            return
        self._usual[subset] = usual = median(list(medians.values()))
        late = [(own, n, endpoint) for n, (endpoint, own) in enumerate(medians.items()) if own > usual]
        for own, _, endpoint in sorted(late, reverse=True):
            if not self._late(endpoint, own, usual):
                return

    def _medians(self, now: float, subset: str, without: Endpoint | None = None) -> dict[Endpoint, float]:
        """Those of a subset that can be judged, with the median of their latencies."""
        since, least = now - self._rules.window, self._least
        found: dict[Endpoint, float] = {}
        for endpoint in self._cluster.endpoints:
            outcomes = endpoint.outcomes
            if outcomes is None or endpoint.ejected_until or endpoint.trial or endpoint is without:
                continue
            if endpoint.subset != subset:
                continue
            own = outcomes.latencies.median(since, least)
            if own:
                found[endpoint] = own
        return found

    @property
    def _least(self) -> int:
        """Latencies that it takes for a judgement."""
        return min(self._rules.min_requests, LATENCIES)

    def _late(self, endpoint: Endpoint, own: float, usual: float) -> bool:
        """Have it ejected when it is that much slower than the others."""
        if not slow(own, usual, self._rules.latency):
            return False
        words = f"its median latency of {own * 1000:.3g} ms is more than {self._rules.latency:g} times the usual one, "
        return self._cluster.eject(endpoint, "latency", f"{words}{usual * 1000:.3g} ms")
