"""Balancers that go by nothing but turns and chance."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

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


class RandomChoice(Balancer):
    """Any, with equal chances."""

    __slots__ = ("_random",)

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        return endpoints[int(self._random() * len(endpoints))]
