"""A waiting room: who waits for an upstream to come back, and how they are let go when it is back.

First come, first served. One goes first, alone. Each one that finds the upstream well lets one more be under way than
before, so that twice as many go in each round (slow start, RFC 5681 §3.1): an upstream that has just come back is not
met by all at once. One that finds it ill comes back to its place, the next one goes alone again, and only after a
pause, which doubles up to :data:`LONGEST_PAUSE`.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from typing import Any, Final

#: Seconds after one has found the upstream ill: the first time, and at most.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
#: Of all rooms: who keeps its ticket may come to a room that was made after it left.
_TICKETS: Final = itertools.count(1)

_Place = tuple[int, Any]


def _ticket(place: _Place) -> int:
    return place[0]


class WaitingRoom:
    """Holds what waits; ``it`` may be anything. Each one has a ticket, by which it keeps its place while it is out.

    Whoever is let go by :meth:`go` counts as out until :meth:`back` is called for it, once.
    """

    __slots__ = ("_pause", "_places", "_shut_until", "out", "window")

    def __init__(self) -> None:
        self._places: list[_Place] = []
        #: How many have been let go and are not back; and how many there may be.
        self.out = 0
        self.window = 1
        self._pause = FIRST_PAUSE
        self._shut_until = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._places)

    def enter(self, it: Any, ticket: int = 0) -> int:
        """Wait, behind all others, or at the place of that ``ticket``. Return the ticket."""
        if not ticket:
            ticket = next(_TICKETS)
        insort(self._places, (ticket, it), key=_ticket)
        return ticket

    def leave(self, ticket: int) -> None:
        """Wait no more."""
        at = bisect_left(self._places, ticket, key=_ticket)
        if at < len(self._places) and self._places[at][0] == ticket:
            del self._places[at]

    def go(self, now: float, most: int) -> list[Any]:
        """Let go of those whose turn it is, the first one first; at most ``most``."""
        if now < self._shut_until:
            return []
        number = max(0, min(self.window - self.out, most))
        gone = [it for _, it in self._places[:number]]
        del self._places[:number]
        self.out += len(gone)
        return gone

    def back(self, now: float, well: bool | None) -> None:
        """One that was let go has found the upstream well, or ill; ``None``: it did not get to know."""
        self.out -= 1
        if well:
            self.window += 1
            self._pause = FIRST_PAUSE
        elif well is not None:
            self.window = 1
            self._shut_until = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def everyone(self) -> list[Any]:
        """Return all that wait, the first one first."""
        return [it for _, it in self._places]
