"""Requests that are the same and under way at once: one of them is sent, the others wait for its answer."""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Any


class Flight:
    """One request that is under way, for itself and for those that wait. ``key``: what they have in common."""

    __slots__ = ("key", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        #: Who waits, in the order in which they came, with what is remembered of each.
        self.waiting: dict[Any, Any] = {}


class Flights:
    """All that are under way."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_key)

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
