"""What came of requests: counts and percentiles, in all and by the second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """The requests that began within a stretch of time from ``at`` on: how many, how many went well, and percentiles
    (seconds) of those that did."""

    at: float
    asked: int
    good: int
    p50: float
    p99: float


class Measured:
    """Finished requests: when each began, how long it took, its status (0: cut off) and the sidecar's own code."""

    def __init__(self) -> None:
        self.asked = 0
        self.began: list[float] = []
        self.seconds: list[float] = []
        self.status: list[int] = []
        self.errors: Counter[str] = Counter()

    def add(self, began: float, seconds: float, answer: bytes) -> None:
        """One more, with the bytes of its answer."""
        self.began.append(began)
        self.seconds.append(seconds)
        self.status.append(int(answer[9:12]) if answer else 0)
        at = answer.find(b"\r\nx-sidecar-error: ")
        if at >= 0:
            self.errors[answer[at + 19 : answer.index(b"\r", at + 19)].decode()] += 1

    @classmethod
    def of(cls, parts: Iterable[Measured]) -> Measured:
        """All of these together."""
        whole = cls()
        for it in parts:
            whole.asked += it.asked
            whole.began += it.began
            whole.seconds += it.seconds
            whole.status += it.status
            whole.errors += it.errors
        return whole

    @property
    def good(self) -> int:
        """How many got an answer below 400."""
        return sum(1 for status in self.status if 0 < status < 400)

    def within(self, begin: float, end: float) -> Window:
        """Those that began in that time."""
        found = [n for n, at in enumerate(self.began) if begin <= at < end]
        times = sorted(self.seconds[n] for n in found if 0 < self.status[n] < 400)
        return Window(begin, len(found), len(times), percentile(times, 0.5), percentile(times, 0.99))

    def windows(self, until: float, step: float = 1.0) -> list[Window]:
        """All of them, in stretches of ``step`` seconds."""
        parts: list[list[int]] = [[] for _ in range(round(until / step))]
        for n, at in enumerate(self.began):
            if at < until:
                parts[min(int(at / step), len(parts) - 1)].append(n)
        found = []
        for number, part in enumerate(parts):
            times = sorted(self.seconds[n] for n in part if 0 < self.status[n] < 400)
            found.append(Window(number * step, len(part), len(times), percentile(times, 0.5), percentile(times, 0.99)))
        return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least so large a share lies not above (nearest rank); 0.0 of none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1_000_000 * len(ordered)) // 1_000_000) - 1))]


class PerSecond:
    """Counts events by the second of virtual time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.counts: Counter[int] = Counter()

    def __call__(self) -> None:
        self.counts[int(self._clock())] += 1

    def between(self, begin: float, end: float) -> int:
        """How many there were in these seconds."""
        return sum(count for second, count in self.counts.items() if begin <= second < end)

    def series(self, until: float) -> list[float]:
        """The count of each second."""
        return [float(self.counts[second]) for second in range(int(until))]
