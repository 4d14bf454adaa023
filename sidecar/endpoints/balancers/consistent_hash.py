"""One key, one endpoint, as long as that one has not much more than its share.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2018): an endpoint has at most ``factor`` times
its share of what is under way, and a key whose endpoint is full goes to the next one of its own order.

Keys are scattered over :data:`SLOTS` slots, and each slot has an endpoint by highest random weight (rendezvous hashing:
Thaler, Ravishankar, 1998), which is worked out when the slot is first asked for. So there is nothing to build when
endpoints come and go, a pick is a look into a table, shares follow the weights, and no key moves but those of an
endpoint that has left or come. A ring of points, or Maglev's table, would have to be built at once: some hundred
thousand hashes for a thousand endpoints; Maglev's also moves keys that need not move, and a jump hash only knows
endpoints that come and go at one end. A key that overflows goes elsewhere than its neighbours do, which on a ring
would all fall upon one endpoint.

The numbers depend on addresses and keys alone, so all sidecars choose alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.endpoints.balancers.balancer import Balancer

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint

SLOTS: Final = 65536
#: How much more than its share an endpoint may have; brpc has the same default. docs/resilience.md shows what it does.
FACTOR: Final = 1.25
#: What is remembered of the orders of slots that have overflowed: so many endpoints in all.
MOST_IN_ORDERS: Final = 200_000
#: Keys whose slots are remembered, and characters that such a key has at most.
MOST_KEYS: Final = 4096
LONGEST_KEY: Final = 128

_BITS: Final = 0xFFFFFFFF
_GOLDEN: Final = 0x9E3779B1


class ConsistentHash(Balancer):
    """``factor``: how much more than its share an endpoint may have; 0: any. Without a key it is the less busy one of
    two at random."""

    __slots__ = (
        "_active", "_endpoints", "_factor", "_first", "_follows", "_orders", "_random", "_seeds", "_slots", "_weight",
        "overflows",
    )  # fmt: skip

    weighs: ClassVar[bool] = True
    hashes: ClassVar[bool] = True

    def __init__(self, rng: Random, factor: float = FACTOR) -> None:
        self._random = rng.random
        self._factor = factor
        self._endpoints: Sequence[Endpoint] = ()
        self._weight = 0
        #: What is under way at all of them, once a pick has asked for it.
        self._active = 0
        self._follows = False
        self._seeds: dict[Endpoint, tuple[int, int]] = {}
        #: Key → slot.
        self._slots: dict[str, int] = {}
        #: Slot → its endpoint; slot → all, in the order in which they are asked.
        self._first: dict[int, Endpoint] = {}
        self._orders: dict[int, list[Endpoint]] = {}
        #: Picks that found their endpoint full, and went elsewhere.
        self.overflows = 0

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        before = self._seeds
        self._seeds = {endpoint: before.get(endpoint) or _seed(endpoint) for endpoint in endpoints}
        if self._follows:
            self._follows = False
            self.follow(self._endpoints, ())
        self._endpoints = endpoints
        self._weight = sum([endpoint.weight for endpoint in endpoints])
        self._first.clear()
        self._orders.clear()

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        if not key:
            return self._less_busy(endpoints)
        slot = self._slots.get(key, -1)
        if slot < 0:
            slot = self._scattered(key)
        # Only for the usual set; a retry is handed what is left of it.
        usual = endpoints is self._endpoints
        first = self._first.get(slot) if usual else None
        if first is None:
            first = self._highest(endpoints, slot)
            if usual:
                self._first[slot] = first
        if not first.active or not self._factor:
            return first
        if usual:
            if not self._follows:
                self._begin_to_follow()
            active, weight = self._active, self._weight
        else:
            active = sum([endpoint.active for endpoint in endpoints])
            weight = sum([endpoint.weight for endpoint in endpoints])
        if not weight:
            return first
        # active + 1 <= ceil(share x factor), without the rounding.
        bound = self._factor * (active + 1) / weight
        if first.active < bound * first.weight:
            return first
        self.overflows += 1
        for endpoint in self._order(endpoints, slot, usual):
            if endpoint.active < bound * endpoint.weight:
                return endpoint
        return first

    def moved(self, endpoint: Endpoint, by: int) -> None:
        self._active += by

    def _begin_to_follow(self) -> None:
        self._follows = True
        self._active = sum([endpoint.active for endpoint in self._endpoints])
        self.follow((), self._endpoints)

    def _scattered(self, key: str) -> int:
        slot = slot_of(key)
        if len(key) <= LONGEST_KEY:
            if len(self._slots) >= MOST_KEYS:
                self._slots.clear()
            self._slots[key] = slot
        return slot

    def known(self, endpoint: Endpoint) -> dict[str, Any]:
        if endpoint not in self._seeds or not self._weight:
            return {}
        return {"hash_share": round(endpoint.weight / self._weight, 4)}

    def _less_busy(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        size = len(endpoints)
        one = endpoints[int(self._random() * size)]
        other = endpoints[int(self._random() * size)]
        return one if (one.active + 1) * other.weight <= (other.active + 1) * one.weight else other

    def _highest(self, endpoints: Sequence[Endpoint], slot: int) -> Endpoint:
        best = endpoints[0]
        lowest = -1.0
        scattered = (slot * _GOLDEN) & _BITS
        for endpoint in endpoints:
            score = self._score(endpoint, scattered)
            if lowest < 0 or score < lowest:
                lowest = score
                best = endpoint
        return best

    def _order(self, endpoints: Sequence[Endpoint], slot: int, usual: bool) -> list[Endpoint]:
        order = self._orders.get(slot) if usual else None
        if order is None:
            scattered = (slot * _GOLDEN) & _BITS
            scores = [(self._score(endpoint, scattered), n) for n, endpoint in enumerate(endpoints)]
            scores.sort()
            order = [endpoints[n] for _, n in scores]
            if usual:
                if (len(self._orders) + 1) * len(order) > MOST_IN_ORDERS:
                    self._orders.clear()
                self._orders[slot] = order
        return order

    def _score(self, endpoint: Endpoint, scattered: int) -> float:
        """How far the endpoint is from the slot: exponentially distributed with its weight as the rate, so that the
        nearest one is each with a chance in proportion to that."""
        low, high = self._seeds.get(endpoint) or _seed(endpoint)
        uniform = (_mix(_mix(low ^ scattered) ^ high) + 0.5) / 4294967296.0
        weight = endpoint.weight
        return -log(uniform) / weight if weight else -log(uniform) * 1e9  # last, yet in an order


def slot_of(key: str) -> int:
    """The slot of a key."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=2).digest(), "big")


def _seed(endpoint: Endpoint) -> tuple[int, int]:
    digest = blake2b(endpoint.address.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")


def _mix(x: int) -> int:
    """Scatter 32 bits: multiply and shift, as in MurmurHash's last step. The factors are below 2^30, so that products
    stay small integers when this is compiled."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _BITS
    x = ((x ^ (x >> 15)) * 0x3335B369) & _BITS
    return x ^ (x >> 15)
