"""The balancers by their names in the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Final

from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.balancers.basic import RandomChoice, RoundRobin
from sidecar.endpoints.balancers.consistent_hash import FACTOR, ConsistentHash
from sidecar.endpoints.balancers.ip_hash import IpHash
from sidecar.endpoints.balancers.least_connections import LeastConnections
from sidecar.endpoints.balancers.peak_ewma import PeakEwma
from sidecar.endpoints.balancers.prequal import Prequal
from sidecar.endpoints.balancers.weighted import Weighted

#: What makes one, out of random numbers, a clock (seconds) and the factor of bounded load.
_BALANCERS: Final[dict[str, Callable[[Random, Callable[[], float], float], Balancer]]] = {
    "round_robin": lambda rng, clock, factor: RoundRobin(rng),
    "least_connections": lambda rng, clock, factor: LeastConnections(rng),
    "weighted": lambda rng, clock, factor: Weighted(rng),
    "random": lambda rng, clock, factor: RandomChoice(rng),
    "ip_hash": lambda rng, clock, factor: IpHash(),
    "peak_ewma": lambda rng, clock, factor: PeakEwma(rng, clock),
    "consistent_hash": lambda rng, clock, factor: ConsistentHash(rng, factor),
    "prequal": lambda rng, clock, factor: Prequal(rng, clock),
}

#: The names that :func:`create` knows.
NAMES: Final = tuple(_BALANCERS)


def create(
    name: str, rng: Random, clock: Callable[[], float] = time.monotonic, balance_factor: float = FACTOR
) -> Balancer:
    """A new balancer by its name in the configuration; it belongs to one cluster, whose ``clock`` it has. Raises
    :class:`ValueError` for an unknown name."""
    make = _BALANCERS.get(name)
    if make is None:
        raise ValueError(f"there is no balancer {name!r}; it must be one of {', '.join(NAMES)}")
    return make(rng, clock, balance_factor)
