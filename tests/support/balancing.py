"""Endpoints to choose among, and how a balancer shares picks out among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.endpoint import Endpoint


def make(*weights: int) -> tuple[Endpoint, ...]:
    """Endpoints with those weights, at ports from 8000."""
    return tuple(Endpoint("10.0.0.1", 8000 + n, weight) for n, weight in enumerate(weights))


def shares(balancer: Balancer, endpoints: Sequence[Endpoint], picks: int = 1000) -> list[float]:
    """The share of each in so many picks, none of which begins anything."""
    counts = Counter(balancer.pick(endpoints, "").port - 8000 for _ in range(picks))
    return [counts[n] / picks for n in range(len(endpoints))]


def have(endpoint: Endpoint, active: int) -> None:
    """Have so many exchanges begin or end that ``active`` are under way there."""
    while endpoint.active < active:
        endpoint.begin()
    while endpoint.active > active:
        endpoint.end()
