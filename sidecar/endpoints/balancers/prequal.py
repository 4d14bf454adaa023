"""The better one of two or three at random, by the load that their sidecars report.

Prequal (Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance", NSDI 2024): the endpoints with
many requests in flight are hot and come last. The paper probes; here each answer brings a report
(``endpoint-load-metrics``), so there are no calls beside the traffic.

Among those that are not hot, the paper takes the one with the lowest latency. With few endpoints, which are compared
again and again, all callers run after the same one then (docs/resilience.md has figures). So the latency is multiplied
with the requests in flight, as with peak EWMA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sidecar.endpoints.balancers.peak_ewma import PeakEwma, cheaper

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.endpoints.load import Report

#: Seconds after which a report is not believed any more.
FRESH: Final = 1.0
#: The share of reports with fewer requests in flight than a hot endpoint has.
HOT: Final = 0.84
#: With so many in flight or fewer none is hot: two or three at once are chance, and a slow endpoint, which few are sent
#: to, must not be the one that is left.
FEW: Final = 4.0
#: Reports that this share is taken of: the last ones. It is taken anew each time that so many have come.
WINDOW: Final = 128
EVERY: Final = 8
#: From so many endpoints on three are compared: three of few would be the same ones for everybody.
THREE_OF: Final = 5


class Prequal(PeakEwma):
    """Where one of those that are compared has no fresh report, it is the cheapest of them as with
    :class:`~sidecar.endpoints.balancers.peak_ewma.PeakEwma`.

    A latency is the larger one of what is reported and what was seen from here. Else an endpoint that fails fast, or
    whose sidecar errs or lies, or to which the way is slow, would draw traffic."""

    __slots__ = ("_hot", "_seen", "_since")

    def __init__(self, rng: Random, clock: Callable[[], float]) -> None:
        PeakEwma.__init__(self, rng, clock)
        #: In flight per weight, as reported lately; how many of those have come since :attr:`_hot` was found; that.
        self._seen: list[float] = []
        self._since = 0
        self._hot = inf

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        size = len(endpoints)
        if size == 1:
            return endpoints[0]
        random = self._random
        now = self._clock()
        one = int(random() * size)
        other = int(random() * (size - 1))
        if other >= one:
            other += 1
        best = self._better(endpoints[one], endpoints[other], now)
        if size >= THREE_OF:
            third = endpoints[int(random() * size)]
            if third is not endpoints[one] and third is not endpoints[other]:
                best = self._better(best, third, now)
        return best

    def _better(self, one: Endpoint, other: Endpoint, now: float) -> Endpoint:
        if now - one.load.reported_at > FRESH or now - other.load.reported_at > FRESH:
            return cheaper(one, other, now)
        one_busy, other_busy = in_flight(one), in_flight(other)
        one_weight, other_weight = max(one.weight, 1), max(other.weight, 1)
        one_hot, other_hot = one_busy > self._hot * one_weight, other_busy > self._hot * other_weight
        if one_hot != other_hot:
            return other if one_hot else one
        one_cost = _latency(one, now) * (one_busy + 1) * other_weight
        other_cost = _latency(other, now) * (other_busy + 1) * one_weight
        if one_cost == other_cost:
            return one if one_busy <= other_busy else other
        return one if one_cost < other_cost else other

    def reported(self, endpoint: Endpoint, report: Report) -> None:
        load = endpoint.load
        load.report = report
        load.reported_at = self._clock()
        load.active_then = endpoint.active
        seen = self._seen
        seen.append(report.in_flight / max(endpoint.weight, 1))
        self._since += 1
        if self._since >= EVERY:
            self._since = 0
            if len(seen) > WINDOW:
                del seen[: len(seen) - WINDOW]
            self._hot = max(sorted(seen)[int(len(seen) * HOT)], FEW)

    def known(self, endpoint: Endpoint) -> dict[str, Any]:
        found = PeakEwma.known(self, endpoint)
        load = endpoint.load
        report = load.report
        if report is not None:
            found["reported"] = {
                "in_flight": report.in_flight,
                "latency_ms": round(report.latency * 1000, 1),
                "age_ms": round((self._clock() - load.reported_at) * 1000),
            }
        return found


def in_flight(endpoint: Endpoint) -> int:
    """Requests in flight there: as reported, with what has begun or ended from here since."""
    load = endpoint.load
    report = load.report
    if report is None:
        return endpoint.active
    return max(endpoint.active, report.in_flight + endpoint.active - load.active_then)


def _latency(endpoint: Endpoint, now: float) -> float:
    load = endpoint.load
    report = load.report
    seconds = load.seconds(now) if load.measured_at >= 0 else 0.0
    return seconds if report is None or seconds > report.latency else report.latency
