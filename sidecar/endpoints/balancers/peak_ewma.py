"""The better one of two at random, by how long answers take there and how much is under way.

Two random choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001) by the peak EWMA of
Finagle and Linkerd: the estimate follows a slow answer at once and comes down slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint

#: Seconds that a failed try counts for at least. An endpoint that fails at once would else be the quickest of all.
PENALTY: Final = 5.0
#: Seconds that it counts for at most, when it says itself how long it wants to be left alone.
LONGEST_PENALTY: Final = 300.0
#: Seconds that are long for an endpoint that has not answered yet, when its client leaves.
LONG: Final = 1.0
#: A kept connection that closed just as it was used says nothing about its endpoint.
_NO_FAILURE: Final = "race"
#: Nor did one fail that another try was quicker than: it has taken as long as that.
_OUTRUN: Final = "hedged"
_TOO_MANY: Final = 429


class PeakEwma(Balancer):
    """Cost = estimate of the time to an answer's head x (requests under way + 1) / weight. One that has not answered
    yet counts as as quick as the other: it has its share at once, and no more than it answers."""

    __slots__ = ("_clock", "_random")

    watches: ClassVar[bool] = True

    def __init__(self, rng: Random, clock: Callable[[], float]) -> None:
        self._random = rng.random
        self._clock = clock

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        size = len(endpoints)
        if size == 1:
            return endpoints[0]
        one = int(self._random() * size)
        other = int(self._random() * (size - 1))
        if other >= one:
            other += 1
        return cheaper(endpoints[one], endpoints[other], self._clock())

    def told(self, endpoint: Endpoint, seconds: float, status: int, failure: str) -> None:
        if failure == _NO_FAILURE:
            return
        failed = failure not in ("", _OUTRUN) or status >= 500 or status == _TOO_MANY
        if failed and seconds < PENALTY:
            seconds = PENALTY
        endpoint.load.measured(seconds, self._clock())

    def abandoned(self, endpoint: Endpoint, seconds: float) -> None:
        load, now = endpoint.load, self._clock()
        # It would have taken longer: that says something where it is long already.
        if seconds > (load.seconds(now) if load.measured_at >= 0 else LONG):
            load.measured(seconds, now)

    def asked_to_wait(self, endpoint: Endpoint, seconds: float) -> None:
        endpoint.load.measured(min(max(seconds, PENALTY), LONGEST_PENALTY), self._clock())

    def known(self, endpoint: Endpoint) -> dict[str, Any]:
        load = endpoint.load
        if load.measured_at < 0:
            return {}
        return {"ewma_ms": round(load.seconds(self._clock()) * 1000, 1)}


def cheaper(one: Endpoint, other: Endpoint, now: float) -> Endpoint:
    """The one with the lower cost; among equals the first."""
    here, there = one.load, other.load
    one_cost = float((one.active + 1) * other.weight)
    other_cost = float((other.active + 1) * one.weight)
    if here.measured_at >= 0 and there.measured_at >= 0:
        one_cost *= here.seconds(now)
        other_cost *= there.seconds(now)
    return one if one_cost <= other_cost else other
