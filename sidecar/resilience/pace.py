"""How many bytes may pass by now, if so many per second are to."""

from __future__ import annotations

from typing import Final

#: Seconds' worth of bytes that may pass at once.
BURST: Final = 0.2


class Pace:
    """``rate`` bytes per second, from ``now`` on. What was not used is lost but for a burst of :data:`BURST` seconds,
    so that a pause is not made up for. Raises :class:`ValueError` for a rate that is not above 0."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        if not rate > 0:
            raise ValueError("a rate has to be above 0")
        self._rate = rate
        self._burst = max(2.0, rate * BURST)
        self._left = 0.0
        self._at = now

    def take(self, most: int, now: float) -> int:
        """Return how many of ``most`` bytes may pass now, and count them as passed. ``now`` must not go back."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        passed = min(most, int(self._left + 1e-6))  # rounding must not hold a byte back for another turn
        self._left -= passed
        return passed

    def due(self, wanted: int) -> float:
        """Return the time at which as many as ``wanted`` bytes may pass, or half of what may at once: who is a little
        late must not lose anything by that."""
        missing = max(1.0, min(float(wanted), self._burst / 2)) - self._left
        return self._at + max(0.0, missing) / self._rate
