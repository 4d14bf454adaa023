"""Balancers that go by weights and by what is under way here, and by nothing that answers tell."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint


class RoundRobin(Balancer):
    """Each in its turn. The first is drawn by lot, so that many sidecars started together spread out."""

    __slots__ = ("_next",)

    def __init__(self, rng: Random) -> None:
        self._next = rng.getrandbits(16)

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        turn = self._next
        self._next = turn + 1
        return endpoints[turn % len(endpoints)]


class LeastConnections(Balancer):
    """The one with the fewest exchanges under way for its weight; among equals, each in its turn."""

    __slots__ = ("_next",)

    def __init__(self, rng: Random) -> None:
        self._next = rng.getrandbits(16)

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        size = len(endpoints)
        start = self._next % size
        self._next += 1
        best = endpoints[start]
        # An idle one cannot be beaten, so at low load this looks at one or two.
        if not best.active:
            return best
        active, weight = best.active, best.weight
        for part in (endpoints[start + 1 :], endpoints[:start]):  # quicker than by their numbers
            for endpoint in part:
                under_way = endpoint.active
                if not under_way:
                    return endpoint
                if under_way * weight < active * endpoint.weight:
                    best, active, weight = endpoint, under_way, endpoint.weight
        return best


class Weighted(Balancer):
    """Smooth weighted round robin, as in nginx: shares follow the weights exactly, and a heavy endpoint's turns are
    spread over the cycle instead of coming in a row."""

    __slots__ = ("_rng",)

    weighs: ClassVar[bool] = True

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        total = 0
        best = endpoints[0]
        highest = None
        for endpoint in endpoints:
            weight = endpoint.weight
            total += weight
            endpoint.current = current = endpoint.current + weight
            if highest is None or current > highest:
                highest = current
                best = endpoint
        if not total:
            return endpoints[int(self._rng.random() * len(endpoints))]
        best.current -= total
        return best


class RandomChoice(Balancer):
    """Any, with equal chances."""

    __slots__ = ("_random",)

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        return endpoints[int(self._random() * len(endpoints))]
