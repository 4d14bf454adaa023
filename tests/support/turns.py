"""A limit that is found, led by hand through the looks of its turns."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.resilience.adaptive_limit import GOOD, START, AdaptiveLimit

#: Seconds of a request, a sum of powers of two as all times here, so that sums of them are exact.
EACH: Final = 0.25


class Port:
    """A limit that is always reached: who ends is replaced at once. The first turn is between 10 and 40, if 20 are not
    many too many."""

    def __init__(self, floor: int = 1, ceiling: int = 1000, start: int = START) -> None:
        self.limit = AdaptiveLimit(floor, ceiling, 0.0, start)
        self.now = 0.0
        self._flying = 0

    def fly(self, active: int) -> None:
        """So many are in flight from now on."""
        self.limit.changed(active, self.now)
        self._flying = active

    def after(self, seconds: float) -> int:
        """So many seconds later something has to wait. Return how many may be in flight then, and so many are."""
        self.now += seconds
        self.fly(self._flying)
        self.limit.pressed(self.now)
        self.fly(self.limit.level)
        return self.limit.level

    def end(self, count: int, each: float = EACH, outcome: int = GOOD) -> None:
        """So many end now that took so long."""
        self.fly(self._flying)
        for _ in range(count):
            self.limit.ended(outcome, self.now - each, self.now)

    def begin(self, seconds: float = 0.0) -> int:
        """So many seconds later, begin the look at the lower level; return that."""
        self.after(seconds)
        return self.after(0.0)

    def lower(self, ended: int = 40, took: float = 1.0, each: float = EACH) -> None:
        """Look at the lower level for so long."""
        self.now += took
        self.end(ended, each)
        self.after(0.0)

    def over(self) -> bool:
        """Whether that look is over: then so many answers of what is left are enough to go up."""
        low = self.limit.level
        self.end(2 * low)
        return self.after(0.0) > low

    def rise(self, each: float = EACH) -> int:
        """Wait until the look at the higher level has begun; return that."""
        self.after(each)
        return self.after(each)

    def higher(self, ended: int, took: float = 1.0, outcome: int = GOOD) -> float:
        """Look at it for so long; return the estimate."""
        self.now += took / 2
        self.end(ended, outcome=outcome)
        self.after(took / 2)
        return self.limit.estimate

    def turn(self, ended: int, took: float = 1.0, *, wait: float = 0.0, low: float = 1.0, outcome: int = GOOD) -> float:
        """So many seconds later, a turn in which so many end at the higher level; return the estimate."""
        self.begin(wait)
        self.lower(took=low)
        self.rise()
        return self.higher(ended, took, outcome)

    def steady(self, turns: int) -> None:
        """So many turns which find what was thought: a limit of 106 is that of a server that does 100 at once."""
        for number in range(turns):
            took = 1.75 if number < 2 else 2.5
            self.turn(int(400 * took), took, wait=5.0, low=1.75)
            assert self.limit.estimate == pytest.approx(106)
