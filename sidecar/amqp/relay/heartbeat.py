"""When a session has to be looked at next: for a heartbeat, or because something should have happened by then."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.net.wheel import Timer


class SessionTimer:
    """Those of one session, over its one timer: whoever is called by that asks :meth:`is_over` and :meth:`beats`, and
    then for the next time (:meth:`arm`)."""

    __slots__ = ("_clock", "_interval", "_next_beat", "_over", "timer")

    def __init__(self, timer: Timer, clock: Callable[[], float]) -> None:
        self.timer = timer
        self._clock = clock
        self._over = inf
        #: Seconds between two heartbeats, and when the next one is due.
        self._interval = inf
        self._next_beat = inf

    def end_in(self, seconds: float) -> None:
        """What is going on has to be over so many seconds from now."""
        self._over = self._clock() + seconds
        self.arm()

    def take_time(self) -> None:
        """It may last."""
        self._over = inf

    def beat_every(self, seconds: float) -> None:
        """Say something that often."""
        self._interval = seconds
        self._next_beat = self._clock() + seconds

    def is_over(self, now: float) -> bool:
        """What had to be over is due."""
        return now >= self._over

    def beats(self, now: float) -> bool:
        """A heartbeat is due; the next one is counted from here on."""
        if now < self._next_beat:
            return False
        self._next_beat = now + self._interval
        return True

    def arm(self) -> None:
        """Set the timer to what comes next."""
        due = min(self._over, self._next_beat)
        if due != inf:
            self.timer.set(due)

    def close(self) -> None:
        """Nothing is due any more, ever."""
        self.timer.close()
