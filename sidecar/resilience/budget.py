"""The retry budget: how many tries may be repeated, as a share of the requests that there are.

Three tries per hop are 27 calls three hops down, and retries that go on after the cause of an overload has gone can
keep it alive by themselves (Nathan Bronson and others, "Metastable Failures in Distributed Systems", HotOS 2021). So it
is their volume that is bounded, and not only their pace. The shape, a share of the latest requests and a floor for
little traffic, is that of Finagle's ``RetryBudget``.
"""

from __future__ import annotations

from math import inf
from typing import Final

#: Seconds that are remembered, and the slots that they are counted in.
WINDOW: Final = 10.0
_SLOTS: Final = 20
_SLOT: Final = WINDOW / _SLOTS


class Budget:
    """Retries of the last :data:`WINDOW` seconds are at most ``ratio`` times the requests of these seconds, plus
    ``least`` for each second. Both are counted in slots of half a second. A request is forgotten up to a slot too early
    and a retry up to a slot too late, so the bound holds for every ten seconds, wherever they begin. ``inf`` for the
    ratio: there is no bound.

    Times are seconds. One that is before an earlier one counts as that one.
    """

    __slots__ = ("_last", "_requests", "_retries", "_spent", "end", "least", "ratio", "requests")

    def __init__(self, ratio: float, least: float, now: float) -> None:
        self.ratio = ratio
        self.least = least
        #: When the present slot ends, and what it has counted so far: requests and retries. Who counts each request at
        #: little cost looks at ``end`` itself, calls :meth:`turn` from then on, and adds to ``requests``.
        self.end = now + _SLOT
        self.requests = 0
        self._spent = 0
        #: The slots before it, in a ring: ``_last`` is where the newest one stands. Of requests the oldest one does not
        #: count any more.
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self._last = 0

    def configure(self, ratio: float, least: float) -> None:
        """Go by other numbers; what was counted stays."""
        self.ratio = ratio
        self.least = least

    def request(self, now: float) -> None:
        """Count a request: its first try."""
        if now >= self.end:
            self.turn(now)
        self.requests += 1

    def left(self, now: float) -> float:
        """Return how many retries there may be at once; ``inf`` without a bound, below 0 never."""
        if self.ratio == inf:
            return inf
        if now >= self.end:
            self.turn(now)
        oldest = (self._last + 1) % _SLOTS
        requests = sum(self._requests) - self._requests[oldest] + self.requests
        return max(0.0, self.ratio * requests + self.least * WINDOW - sum(self._retries) - self._spent)

    def take(self, now: float) -> bool:
        """Pay for a retry; return False if there is nothing left to pay it with."""
        if self.left(now) < 1.0:
            return False
        self._spent += 1
        return True

    def turn(self, now: float) -> None:
        """Begin the slot of that time, which is not before ``end``."""
        passed = int((now - self.end) / _SLOT) + 1
        for number in range(min(passed, _SLOTS)):
            self._last = (self._last + 1) % _SLOTS
            self._requests[self._last] = 0 if number else self.requests
            self._retries[self._last] = 0 if number else self._spent
        if passed > _SLOTS:
            self._requests = [0] * _SLOTS
            self._retries = [0] * _SLOTS
        self.requests = 0
        self._spent = 0
        self.end += passed * _SLOT
