"""How late the event loop is: what everything that the sidecar does has to wait for at least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.core.metrics import Family, histogram
from sidecar.core.stats import Histogram

#: Seconds between two looks. A stall that lasts longer is always seen, a shorter one in proportion.
PERIOD: Final = 0.25
#: Upper bounds, seconds. uvloop's timers are rounded to milliseconds, so less cannot be told.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """A timer of the loop's own that notes how late it was. ``clock`` is the time of ``call_at``."""

    def __init__(self, call_at: Callable[[float, Callable[[], None]], Any], clock: Callable[[], float]) -> None:
        self.lag = Histogram(BOUNDS)
        self._call_at = call_at
        self._clock = clock
        self._due = 0.0
        self._handle: Any = None

    def start(self) -> None:
        """Look from now on."""
        self._due = self._clock() + PERIOD
        self._handle = self._call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self.lag.observe(max(0.0, self._clock() - self._due))
        self.start()

    def families(self) -> Iterable[Family]:
        """Return what was seen so far."""
        lag = histogram("sidecar_event_loop_lag_seconds", "How late a timer was that is looked at four times a second.")
        lag.add_histogram((), self.lag)
        return (lag,)
