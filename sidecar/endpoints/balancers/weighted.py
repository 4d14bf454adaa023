"""Smooth weighted round robin, as in nginx: shares follow the weights exactly, and a heavy endpoint's turns are spread
over the cycle instead of coming in a row.

By its definition each pick adds to every endpoint's number its weight, takes the highest number (of several the first),
and takes the sum of all weights off it. Those that have one weight stay in one order among themselves until one of them
is taken. So a queue of them is kept for each weight, and a pick compares the first ones of these queues; the picks are
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace
from random import Random
from typing import TYPE_CHECKING, ClassVar

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint


class _Queue:
    """Endpoints of one weight: a heap of how much each is short of what all of them were given, and its place in the
    rotation. ``first`` is the place of the first one, ``current`` its number."""

    __slots__ = ("current", "first", "heap", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.heap: list[tuple[int, int]] = []
        self.current = 0
        self.first = 0

    def arrange(self) -> None:
        """Put them in order, when all have come."""
        heapify(self.heap)
        short, self.first = self.heap[0]
        self.current = -short

    def take(self, total: int) -> int:
        """Take so much off the number of the first one; its place."""
        short, place = self.heap[0]
        given = self.current + short
        heapreplace(self.heap, (short + total, place))
        short, self.first = self.heap[0]
        self.current = given - short
        return place


class Weighted(Balancer):
    """The numbers are in :attr:`Endpoint.current` while there are no queues."""

    __slots__ = ("_endpoints", "_queues", "_rng", "_total")

    weighs: ClassVar[bool] = True

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._endpoints: Sequence[Endpoint] = ()
        self._total = 0
        self._queues: list[_Queue] = []

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        self._settle()
        self._endpoints = endpoints

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        # Queues are for the usual set; a retry is handed what is left of it.
        if endpoints is not self._endpoints:
            self._settle()
            return heaviest(endpoints) or self._any(endpoints)
        if not self._queues:
            self._arrange()
        total = self._total
        if not total:
            return self._any(endpoints)
        best = self._queues[0]
        highest = best.current - 1
        for queue in self._queues:
            queue.current = current = queue.current + queue.weight
            if current > highest or (current == highest and queue.first < best.first):
                highest = current
                best = queue
        return endpoints[best.take(total)]

    def _any(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        return endpoints[int(self._rng.random() * len(endpoints))]

    def _arrange(self) -> None:
        queues: dict[int, _Queue] = {}
        for place, endpoint in enumerate(self._endpoints):
            weight = endpoint.weight
            queue = queues.get(weight)
            if queue is None:
                queue = queues[weight] = _Queue(weight)
            queue.heap.append((-endpoint.current, place))
        self._queues = list(queues.values())
        self._total = 0
        for queue in self._queues:
            queue.arrange()
            self._total += queue.weight * len(queue.heap)

    def _settle(self) -> None:
        """Write the numbers down."""
        endpoints = self._endpoints
        for queue in self._queues:
            given = queue.current + queue.heap[0][0]
            for short, place in queue.heap:
                endpoints[place].current = given - short
        self._queues = []


def heaviest(endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """A pick by the definition; None when none has a weight."""
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
        return None
    best.current -= total
    return best
