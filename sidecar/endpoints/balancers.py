"""Balancers: which endpoint gets the next try.

They choose among the endpoints they are handed and know nothing of failures; :mod:`sidecar.endpoints.cluster`
decides who is in. Endpoints in the ``warning`` state have a smaller weight. Balancers that honour weights exactly
(``weighs``) are handed them too; the others would send them a full share, so they see them only when no healthy
one is left. ``least_connections`` is among the others: it looks at weights only once there is load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log
from random import Random
from typing import Final, Protocol

from sidecar.endpoints.endpoint import Endpoint


class Balancer(Protocol):
    """What a cluster asks for an endpoint."""

    __slots__ = ()

    #: Whether traffic follows the weights even when there is little of it.
    weighs: bool = False

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        """One of ``endpoints``, which is never empty. ``key`` is what a hashing balancer goes by (the client's
        address). Called for every try, so it must be cheap."""
        ...

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        """The set that :meth:`pick` is normally handed has changed to ``endpoints``, or a weight in it has."""


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
        for i in range(start + 1 - size, start):
            endpoint = endpoints[i]
            if not endpoint.active:
                return endpoint
            if endpoint.active * best.weight < best.active * endpoint.weight:
                best = endpoint
        return best


class Weighted(Balancer):
    """Smooth weighted round robin, as in nginx: shares follow the weights exactly, and a heavy endpoint's turns are
    spread over the cycle instead of coming in a row."""

    __slots__ = ("_rng",)

    weighs = True

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


class IpHash(Balancer):
    """The same endpoint for the same key, in every process: highest random weight hashing (Thaler, Ravishankar,
    "Using name-based mappings to increase hit rates", 1998), weighted. When an endpoint leaves, only its own keys
    move; when one joins, it takes its share from all and nothing else moves."""

    __slots__ = ("_chosen", "_endpoints")

    weighs = True

    #: How many keys' choices are remembered; a sidecar's clients are few, its own app above all.
    REMEMBERED: Final = 4096

    def __init__(self) -> None:
        self._endpoints: Sequence[Endpoint] = ()
        self._chosen: dict[str, Endpoint] = {}

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._chosen.clear()

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        # Only for the usual set; a retry is handed what is left of it.
        if endpoints is not self._endpoints:
            return self._highest(endpoints, key)
        endpoint = self._chosen.get(key)
        if endpoint is None:
            if len(self._chosen) >= self.REMEMBERED:
                self._chosen.clear()
            endpoint = self._chosen[key] = self._highest(endpoints, key)
        return endpoint

    @staticmethod
    def _highest(endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        best = endpoints[0]
        highest = -1.0
        for endpoint in endpoints:
            digest = blake2b(f"{endpoint.address} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
            # 52 bits, so that the half that keeps it away from 0 and 1 is not rounded off.
            uniform = ((int.from_bytes(digest) >> 12) + 0.5) / (1 << 52)
            score = endpoint.weight / -log(uniform)
            if score > highest:
                highest = score
                best = endpoint
        return best


_BALANCERS: Final[dict[str, Callable[[Random], Balancer]]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "weighted": Weighted,
    "random": RandomChoice,
    "ip_hash": lambda rng: IpHash(),
}

#: The names that :func:`create` knows.
NAMES: Final = tuple(_BALANCERS)


def create(name: str, rng: Random) -> Balancer:
    """A new balancer by its name in the configuration; it belongs to one cluster. Raises :class:`ValueError` for an
    unknown name."""
    make = _BALANCERS.get(name)
    if make is None:
        raise ValueError(f"there is no balancer {name!r}; it must be one of {', '.join(NAMES)}")
    return make(rng)
