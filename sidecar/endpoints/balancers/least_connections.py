"""The endpoint that has the least to do for its weight, as it is known here.

When the one whose turn it is is idle, it is picked. Else they are kept by load: for each load there is a level with
those that have it, and a heap says which load is the lowest. So a pick looks at one level, and an exchange that begins
or ends moves its endpoint from one to another, however many there are.

Those of a level are a number with a bit for each endpoint, as they stand in the rotation. Whose turn it is among equals
is the first bit from some place on: a shift, and the lowest bit of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import TYPE_CHECKING, Final

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint

#: Loads that nobody has are forgotten once there are so many for each endpoint.
_STALE: Final = 4


class _Level:
    """The bits of those that have one load."""

    __slots__ = ("equals",)

    def __init__(self) -> None:
        self.equals = 0


class _Place:
    """The bit of an endpoint, and the level that it is on."""

    __slots__ = ("bit", "level")

    def __init__(self, bit: int, level: _Level) -> None:
        self.bit = bit
        self.level = level


class LeastConnections(Balancer):
    """The one with the fewest exchanges under way for its weight; among equals, each in its turn."""

    __slots__ = ("_endpoints", "_levels", "_loads", "_next", "_places")

    def __init__(self, rng: Random) -> None:
        self._next = rng.getrandbits(16)
        self._endpoints: Sequence[Endpoint] = ()
        #: Empty until a pick needs it: nothing is followed, and nothing paid, as long as endpoints are idle.
        self._places: dict[Endpoint, _Place] = {}
        #: By load; and a heap of these loads, some of which nobody may have any more.
        self._levels: dict[float, _Level] = {}
        self._loads: list[float] = []

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        if self._places:
            self.follow(self._endpoints, ())
            self._places.clear()
        self._endpoints = endpoints

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        start = self._next % len(endpoints)
        self._next += 1
        first = endpoints[start]
        if not first.active:  # it cannot be beaten
            return first
        # Only the usual set is kept by load; a retry is handed what is left of it.
        if endpoints is not self._endpoints:
            return least(endpoints, start)
        if not self._places:
            self._arrange()
        loads, levels = self._loads, self._levels
        equals = levels[loads[0]].equals
        while not equals:
            del levels[heappop(loads)]
            equals = levels[loads[0]].equals
        later = equals >> start
        if later:
            return endpoints[start + (later & -later).bit_length() - 1]
        return endpoints[(equals & -equals).bit_length() - 1]

    def moved(self, endpoint: Endpoint, by: int) -> None:
        place = self._places[endpoint]
        bit = place.bit
        place.level.equals ^= bit
        load = load_of(endpoint)
        place.level = level = self._levels.get(load) or self._begin(load)
        level.equals |= bit

    def _begin(self, load: float) -> _Level:
        """A level for a load that has none."""
        if len(self._levels) >= _STALE * len(self._places):
            self._levels = {load: level for load, level in self._levels.items() if level.equals}
            self._loads = sorted(self._levels)
        self._levels[load] = level = _Level()
        heappush(self._loads, load)
        return level

    def _arrange(self) -> None:
        """Sort the endpoints by load, and follow them from now on."""
        self._levels.clear()
        self._loads.clear()
        for n, endpoint in enumerate(self._endpoints):
            load = load_of(endpoint)
            level = self._levels.get(load) or self._begin(load)
            level.equals |= 1 << n
            self._places[endpoint] = _Place(1 << n, level)
        self.follow((), self._endpoints)


def load_of(endpoint: Endpoint) -> float:
    """The exchanges under way for each unit of its weight. Loads compare as the fractions do: division rounds equal
    ones alike and keeps their order, and two that differ are told apart up to 2^53 exchanges times weight. One that has
    no weight comes last, unless it is idle."""
    if not endpoint.active:
        return 0.0
    return endpoint.active / endpoint.weight if endpoint.weight else inf


def least(endpoints: Sequence[Endpoint], start: int) -> Endpoint:
    """The first one of the least load, from that place on and round."""
    best = endpoints[start]
    active, weight = best.active, best.weight
    for part in (endpoints[start:], endpoints[:start]):  # quicker than by their numbers
        for endpoint in part:
            under_way = endpoint.active
            if not under_way:
                return endpoint
            if under_way * weight < active * endpoint.weight:
                best, active, weight = endpoint, under_way, endpoint.weight
    return best
