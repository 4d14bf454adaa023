"""Requests that are the same and under way at once: one of them is sent, the others wait for its answer."""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Any, Final

from sidecar.cache.invalidation import digest_of
from sidecar.resilience.lru import Lru

#: Seconds for which nobody waits for an answer that was not kept the last time; how many such are remembered.
PASS_SECONDS: Final = 10.0
_MOST_PASSED: Final = 10_000


class Flight:
    """One request that is under way, for itself and for those that wait. ``key``: what they have in common."""

    __slots__ = ("key", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        #: Who waits, in the order in which they came, with what is remembered of each.
        self.waiting: dict[Any, Any] = {}


class Flights:
    """All that are under way."""

    __slots__ = ("_by_key", "_passed")

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Flight] = {}
        #: The digests of those whose last answer was not kept → until when nobody waits for one.
        self._passed = Lru(_MOST_PASSED, _MOST_PASSED)

    def __len__(self) -> int:
        return len(self._by_key)

    def bar(self, key: bytes, whose: bytes, now: float) -> None:
        """Let nobody wait for an answer to that for a time."""
        self._passed.put(_which(key, whose), now + PASS_SECONDS, 1)

    def barred(self, key: bytes, whose: bytes, now: float) -> bool:
        """Whether nobody is to wait for it."""
        until: float | None = self._passed.get(_which(key, whose))
        return until is not None and until > now

    def join(self, key: Hashable) -> tuple[Flight, bool]:
        """The flight of that key, and whether it has just begun: then who asks is the one that is sent."""
        flight = self._by_key.get(key)
        if flight is not None:
            return flight, False
        flight = self._by_key[key] = Flight(key)
        return flight, True

    def end(self, flight: Flight) -> dict[Any, Any]:
        """It is over, or nobody is to join it any more; those who waited."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        waiting = flight.waiting
        flight.waiting = {}
        return waiting

    def close(self, firsts: Container[Any]) -> None:
        """Let nobody join those any more whose keys begin with one of these; who waits for them still gets their
        answers."""
        for key in [it for it in self._by_key if isinstance(it, tuple) and it[0] in firsts]:
            del self._by_key[key]


def _which(key: bytes, whose: bytes) -> bytes:
    return digest_of(key + b"\n" + whose)
