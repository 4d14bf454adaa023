"""Gives endpoints that are new, or back, less than their share of the traffic for a while.

It works with every balancer, because none has to know of it. The balancer chooses among the others; of all tries, each
slow one gets the part that is its due, evenly spread. A balancer that goes by a key is different: there a part of the
keys that are a slow endpoint's stays with those that had them before, and each key moves once.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final
from zlib import crc32

from sidecar.endpoints.endpoint import Endpoint

#: The least share (Envoy's default too): with less, an endpoint of a quiet upstream would learn nothing.
LEAST_SHARE: Final = 0.1
#: Steps in which a share grows.
STEPS: Final = 50


def share(endpoint: Endpoint, now: float, window: float) -> float:
    """The share of its traffic that an endpoint gets at that time, from :data:`LEAST_SHARE` to 1."""
    if endpoint.trial:
        return LEAST_SHARE
    if endpoint.slow_since == inf:
        return 1.0
    if now - endpoint.slow_since >= window:
        endpoint.slow_since = inf
        return 1.0
    return max(LEAST_SHARE, (now - endpoint.slow_since) / window)


class SlowStart:
    """The ``slow`` endpoints of a cluster and ``steady``, the others. ``weighs``: weights count. ``before``: what there
    was until now, from which it goes on."""

    __slots__ = ("_due", "_given", "_interval", "_picks", "_share", "steady")

    def __init__(
        self,
        slow: Sequence[Endpoint],
        steady: tuple[Endpoint, ...],
        weighs: bool,
        rng: Random,
        before: SlowStart | None,
    ) -> None:
        self.steady = steady
        top = max([endpoint.share for endpoint in steady])
        parts = [endpoint.share / top * (endpoint.weight if weighs else 1) for endpoint in slow]
        total = sum(parts) + sum([endpoint.weight if weighs else 1 for endpoint in steady])
        self._picks: float = before._picks if before is not None else 0.0
        #: Endpoint → after how many tries it gets one, and the number of the last one that it got.
        self._interval: dict[Endpoint, float] = {}
        self._given: dict[Endpoint, float] = {}
        #: The part of its own keys that it gets.
        self._share: dict[Endpoint, float] = {endpoint: endpoint.share / top for endpoint in slow}
        #: When the next one is due, with a number so that endpoints are never compared.
        self._due: list[tuple[float, int, Endpoint]] = []
        for n, (endpoint, part) in enumerate(zip(slow, parts, strict=True)):
            interval = total / max(part, 1e-9)
            given = before._given.get(endpoint) if before is not None else None
            if given is None:
                given = self._picks - interval * rng.random()
            self._interval[endpoint] = interval
            self._given[endpoint] = given
            self._due.append((given + interval, n, endpoint))
        heapq.heapify(self._due)

    def due(self) -> Endpoint | None:
        """The slow endpoint that gets this try; None: none does. Ask once for each try."""
        self._picks += 1.0
        due, n, endpoint = self._due[0]
        if due > self._picks:
            return None
        self._given[endpoint] = due
        heapq.heapreplace(self._due, (max(due + self._interval[endpoint], self._picks), n, endpoint))
        return endpoint

    def takes(self, endpoint: Endpoint, key: str) -> bool:
        """Whether the endpoint gets that key already; once it does, it keeps it."""
        share = self._share.get(endpoint, 1.0)
        return share >= 1.0 or crc32(f"{endpoint.address} {key}".encode("utf-8", "surrogateescape")) < share * 2**32


def among(
    eligible: Sequence[Endpoint], now: float, window: float, weighs: bool, rng: Random, before: SlowStart | None
) -> SlowStart | None:
    """Give each endpoint its share at that time; those that get less than others are slow (None: none is)."""
    for endpoint in eligible:
        endpoint.share = share(endpoint, now, window)
    top = max([endpoint.share for endpoint in eligible], default=1.0)
    slow = [endpoint for endpoint in eligible if endpoint.share < top]
    if not slow:
        return None
    steady = tuple([endpoint for endpoint in eligible if endpoint.share >= top])
    return SlowStart(slow, steady, weighs, rng, before)
