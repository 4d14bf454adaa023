"""What a canary is judged by: counts of answers, errors and latencies, of the new version and of the old one."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt
from typing import Final

#: Latencies are counted in steps of a fortieth.
_FINENESS: Final = 40.0
#: The tail that p99 leaves.
TAIL: Final = 0.01


class Known:
    """What is known of the old version: its answers, errors, and latencies. It outlives a step."""

    __slots__ = ("answers", "bad", "latencies", "timed")

    def __init__(self) -> None:
        self.answers = 0
        self.bad = 0
        self.timed = 0
        self.latencies: dict[int, int] = {}

    def add(self, answers: int, bad: int, latencies: Mapping[int, int]) -> None:
        """Count what has come."""
        self.answers += answers
        self.bad += bad
        for number, count in latencies.items():
            self.latencies[number] = self.latencies.get(number, 0) + count
            self.timed += count

    def rate(self) -> float:
        """Its share of errors, as far as it can be told; more than 0. As long as little is known, it is taken for what
        is usual: what is bet on a rate that few answers say loses more than it finds out."""
        return (self.bad + 1) / (self.answers + 500)

    def most(self, bad: int, answers: int) -> float:
        """A rate that the true one hardly exceeds (three standard deviations)."""
        return min(0.9, (bad + 3 * sqrt(bad + 1) + 4.5) / max(1, answers))

    def p99(self) -> float:
        """Its p99, seconds: within a step of latencies, all are taken to be evenly spread; 0 if none is known."""
        left = self.timed * TAIL
        for number in sorted(self.latencies, reverse=True):
            count = self.latencies[number]
            if left <= count:
                return seconds_of(number - left / count)
            left -= count
        return 0.0

    def above(self, number: int) -> int:
        """How many answers took longer than that step."""
        return sum([count for it, count in self.latencies.items() if it > number])


class Side:
    """What has come of one of the two since the last look."""

    __slots__ = ("answers", "bad", "latencies")

    def __init__(self) -> None:
        self.answers = 0
        self.bad = 0
        self.latencies: dict[int, int] = {}

    def told(self, seconds: float, bad: bool, timed: bool) -> None:
        """A try has ended; ``timed``: with an answer, after so many seconds."""
        self.answers += 1
        if bad:
            self.bad += 1
        if timed:
            self.took(seconds)

    def took(self, seconds: float) -> None:
        """An answer took so long, at least."""
        number = step_of(seconds)
        self.latencies[number] = self.latencies.get(number, 0) + 1

    def above(self, number: int) -> int:
        """See :meth:`Known.above`."""
        return sum([count for it, count in self.latencies.items() if it > number])

    def timed(self) -> int:
        """How many had an answer."""
        return sum(self.latencies.values())


def step_of(seconds: float) -> int:
    """The step of latencies that this is in; a microsecond and less is the first one."""
    return int(log(max(1.0, seconds * 1e6)) * _FINENESS)


def seconds_of(number: float) -> float:
    """Where that step ends."""
    return exp((number + 1) / _FINENESS) / 1e6


def limit_of(p99: float, allowed: float) -> int:
    """The step of latencies behind which an answer is slow: the last one that ends by ``p99`` and what is allowed
    beyond, seconds, so that no answer counts as quick that is slower; not before the step that p99 is in."""
    return max(step_of(p99), step_of(p99 + allowed) - 1)
