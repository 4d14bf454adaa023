"""A quantile of the latest latencies, in bounded memory and constant time."""

from __future__ import annotations

from math import log
from typing import Final

#: Buckets: the upper bound of the first one, in seconds, and how much larger each next one is. The last one is of about
#: a minute, and of all that is longer.
SMALLEST: Final = 0.0005
STEP: Final = 1.1
_BUCKETS: Final = 124
#: Latencies in the memory: so many in a half of it. The older half is forgotten when the newer one is full.
HALF: Final = 1000
#: A value is good for so many latencies.
_FRESH: Final = 32


class Quantile:
    """The ``share`` quantile (0 to 1) of the last thousand or two; it is at most :data:`STEP` times too large. With
    fewer than ``least`` there is none."""

    __slots__ = ("_before", "_counts", "_due", "_least", "_number", "_older", "_share", "_value")

    def __init__(self, share: float, least: int) -> None:
        self._share = share
        self._least = least
        self._counts = [0] * _BUCKETS
        self._number = 0
        self._before = [0] * _BUCKETS
        self._older = 0
        self._value = 0.0
        self._due = 0

    def add(self, seconds: float) -> None:
        """One more."""
        bucket = 0
        if seconds > SMALLEST:
            bucket = min(int(log(seconds / SMALLEST) / log(STEP)) + 1, _BUCKETS - 1)
        self._counts[bucket] += 1
        self._number += 1
        self._due -= 1
        if self._number >= HALF:
            self._before, self._older = self._counts, self._number
            self._counts, self._number = [0] * _BUCKETS, 0

    def value(self) -> float:
        """Return it in seconds; 0: there are too few yet."""
        total = self._number + self._older
        if total < self._least:
            return 0.0
        if self._due <= 0 or not self._value:
            self._due = _FRESH
            left = total * (1.0 - self._share)
            bucket = _BUCKETS
            while bucket > 0 and left >= 0.0:
                bucket -= 1
                left -= self._counts[bucket] + self._before[bucket]
            self._value = SMALLEST * STEP**bucket
        return self._value
