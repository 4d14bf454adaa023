"""What came of an endpoint's tries, and whether it stands out among the others: times and outcomes in, numbers out.

An endpoint is judged by its share of failures over a ring of ten parts of a window (as linkerd2-proxy does: an average
that decays with time hides fast bursts), and by the median of its latencies against those of the other endpoints (an
outlier, as Envoy calls it; a median, because the mean of few values is moved by one).
"""

from __future__ import annotations

from typing import Final

#: Parts of the window over which failures are counted.
PARTS: Final = 10
#: Latencies that are remembered of an endpoint.
LATENCIES: Final = 64
#: Endpoints with enough latencies that it takes to say what is usual.
LEAST_ENDPOINTS: Final = 3
#: Seconds: what is slower than the others by less than this is not slow, whatever the ratio.
LEAST_SLOWER: Final = 0.01


class ErrorRate:
    """Tries and failures of the last ``window`` seconds, in :data:`PARTS` parts that go one after the other."""

    __slots__ = ("_bad", "_part", "_total", "_width", "bad", "total")

    def __init__(self, window: float) -> None:
        self._width = window / PARTS
        self._part = 0
        self._total = [0] * PARTS
        self._bad = [0] * PARTS
        self.total = 0
        self.bad = 0

    def count(self, now: float, bad: bool) -> None:
        """One more try has come to its end."""
        self.forget(now)
        at = self._part % PARTS
        self._total[at] += 1
        self.total += 1
        if bad:
            self._bad[at] += 1
            self.bad += 1

    def forget(self, now: float) -> None:
        """Let go of what is older than the window."""
        part = int(now / self._width)
        gone = part - self._part
        if gone <= 0:
            return
        self._part = part
        for n in range(min(gone, PARTS)):
            at = (part - n) % PARTS
            self.total -= self._total[at]
            self.bad -= self._bad[at]
            self._total[at] = self._bad[at] = 0

    def clear(self) -> None:
        """Begin anew."""
        for at in range(PARTS):
            self._total[at] = self._bad[at] = 0
        self.total = self.bad = 0


class Latencies:
    """The last :data:`LATENCIES` times to an answer, with when they were taken."""

    __slots__ = ("_at", "_next", "_seconds")

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._at: list[float] = []
        self._next = 0

    def add(self, now: float, seconds: float) -> None:
        """One more; the oldest goes."""
        if len(self._seconds) < LATENCIES:
            self._seconds.append(seconds)
            self._at.append(now)
            return
        at = self._next
        self._seconds[at] = seconds
        self._at[at] = now
        self._next = (at + 1) % LATENCIES

    def median(self, since: float, least: int) -> float:
        """The median of those taken since then; 0 when there are less than ``least``."""
        if len(self._seconds) < least:
            return 0.0
        if self._at[self._next] >= since:  # the oldest one
            return median(self._seconds)
        found = [seconds for seconds, at in zip(self._seconds, self._at, strict=True) if at >= since]
        return median(found) if found and len(found) >= least else 0.0

    def clear(self) -> None:
        """Begin anew."""
        self._seconds.clear()
        self._at.clear()
        self._next = 0


class Outcomes:
    """What is remembered of one endpoint's tries, to judge it by."""

    __slots__ = ("errors", "latencies")

    def __init__(self, window: float) -> None:
        self.errors = ErrorRate(window)
        self.latencies = Latencies()

    def clear(self) -> None:
        """Begin anew."""
        self.errors.clear()
        self.latencies.clear()


def median(values: list[float]) -> float:
    """The value in the middle; of an even number, the lower one of the two: half of few slow answers are not slow."""
    return sorted(values)[(len(values) - 1) // 2]


def slow(own: float, usual: float, times: float) -> bool:
    """Whether a median of ``own`` seconds is out of proportion to the ``usual`` ones."""
    return own > usual * times and own > usual + LEAST_SLOWER
