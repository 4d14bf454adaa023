"""Whether a new version does as well as the old one: counts of both in, a verdict out.

Two things are judged apart: how many answers are errors, and how many are slow. An answer is slow when it took longer
than the old version's p99 and what the guard allows beyond: of the old version's answers that is less than one in a
hundred, of a version that breaks the guard one in a hundred or more. So both are rates, and are compared by
:mod:`sidecar.resilience.sequential_test`, second by second, since one time of the day is not like another.

The new version is found to be bad when there is proof that it is worse, and good when there is proof that it is not
worse by as much as the guard says. Between the two nothing is said, and more answers are waited for.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import Any, Final, NamedTuple

from sidecar.resilience.sequential_test import Alarm, Block, Proof, against_equal, against_rate, against_worse

#: How likely it is at most that one sidecar finds a version bad that is not, in all of a rollout.
FALSE_ALARM: Final = 0.005
#: How likely it is at most that it finds one good, in a step, that breaks the guard.
FALSE_PROOF: Final = 0.005
#: Latencies are counted in steps of a fortieth; a p99 takes so many answers of the old version.
_FINENESS: Final = 40.0
_ENOUGH: Final = 300
#: The tail that p99 leaves.
_TAIL: Final = 0.01
#: Of what an alarm needs; with more, the version is not called good.
_DOUBT: Final = 0.5


class Guard(NamedTuple):
    """What breaks it: so many more errors than the old version has (a share), a p99 so much longer (seconds; 0: any).
    Nothing is said with fewer answers than ``min_requests`` of either. What comes is looked at by itself every
    ``window`` seconds."""

    error_rate: float = 0.01
    p99: float = 0.1
    min_requests: int = 100
    window: float = 60.0


class Verdict(NamedTuple):
    """``broken`` says how the guard is broken, or is empty. ``good``: the version may have more of the requests.
    ``waits`` says what for, if neither is so."""

    broken: str
    good: bool
    waits: str


class Known:
    """What is known of the old version: its answers, errors, and latencies. It outlives a step."""

    __slots__ = ("answers", "bad", "latencies", "timed")

    def __init__(self) -> None:
        self.answers = 0
        self.bad = 0
        self.timed = 0
        self.latencies: dict[int, int] = {}

    def add(self, answers: int, bad: int, latencies: dict[int, int]) -> None:
        """Count what has come."""
        self.answers += answers
        self.bad += bad
        for number, count in latencies.items():
            self.latencies[number] = self.latencies.get(number, 0) + count
            self.timed += count

    def rate(self) -> float:
        """Its share of errors, as far as it can be told; more than 0."""
        return (self.bad + 0.2) / (self.answers + 100)

    def most(self, bad: int, answers: int) -> float:
        """A rate that the true one hardly exceeds (three standard deviations)."""
        return min(0.9, (bad + 3 * sqrt(bad + 1) + 4.5) / max(1, answers))

    def p99(self) -> int:
        """The step of latencies that its p99 is in."""
        left = self.timed * _TAIL
        numbers = sorted(self.latencies, reverse=True)
        for number in numbers:
            left -= self.latencies[number]
            if left <= 0:
                return number
        return numbers[-1] if numbers else 0

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


def seconds_of(number: int) -> float:
    """Where that step ends."""
    return exp((number + 1) / _FINENESS) / 1e6


def part_of(step: int, steps: int) -> float:
    """The part of the risk of a false alarm that a step has: the first one half, as most that is bad is found there."""
    if steps <= 1:
        return 1.0
    return 0.5 if step <= 1 else 0.5 / (steps - 1)


class Judge:
    """Judges the ``step`` (from 1 on) of a rollout that has ``steps`` of them. ``known`` is what is known of the old
    version from the steps before; ``alone``: all requests go to the new version, so that is all there is to compare
    with."""

    def __init__(self, guard: Guard, step: int, steps: int, known: Known | None = None, *, alone: bool = False) -> None:
        self.guard = guard
        self.alone = alone
        self.known = known or Known()
        self.old, self.new = Side(), Side()
        risk = FALSE_ALARM * part_of(step, steps) / 2
        self._errors, self._slow = Alarm(risk), Alarm(risk)
        self._no_errors, self._not_slow = Proof(FALSE_PROOF), Proof(FALSE_PROOF)
        #: Answers of this step.
        self.old_answers = self.old_bad = self.new_answers = self.new_bad = self.new_slow = self.new_timed = 0
        self._limit = 0.0
        #: When the first answer of the new version was seen; when the current window began.
        self._since: float | None = None
        self._window = 0.0

    def look(self, now: float) -> Verdict:
        """Judge what has come since the last look. ``now`` is seconds on a clock that never goes back."""
        old, new = self.old, self.new
        if new.answers and self._since is None:
            self._since = self._window = now
        elif self._since is not None and now - self._window >= self.guard.window:
            self._window = now
            self._errors.begin()
            self._slow.begin()
        self.old, self.new = Side(), Side()
        self._look_at_errors(Block(old.answers, old.bad, new.answers, new.bad))
        self._look_at_latency(old, new)
        self.known.add(old.answers, old.bad, old.latencies)
        self.old_answers += old.answers
        self.old_bad += old.bad
        self.new_answers += new.answers
        self.new_bad += new.bad
        return self.verdict()

    def outrun(self, side: Side, seconds: float) -> None:
        """A try of that side was cut off after so many seconds, as another one beside it was quicker. Whether it would
        have failed, nobody knows; it would have taken longer, which says something where it is slow already."""
        if 0.0 < self._limit < seconds:
            side.took(seconds)

    def judged(self, now: float) -> float:
        """For how long the new version was seen in this step, seconds."""
        return 0.0 if self._since is None else now - self._since

    def _look_at_errors(self, block: Block) -> None:
        by, known = self.guard.error_rate, self.known
        if self.alone:
            if known.answers >= self.guard.min_requests:
                least = known.most(known.bad, known.answers)
                self._errors.add(against_rate(block, min(0.95, least + by), least))
            return
        rate = min(0.9, known.rate())
        self._errors.add(against_equal(block, rate, min(0.95, rate + by)))
        self._no_errors.add(against_worse(block, rate, by))

    def _look_at_latency(self, old: Side, new: Side) -> None:
        known = self.known
        if not self.guard.p99 or known.timed < max(self.guard.min_requests, _ENOUGH):
            return
        limit = step_of(seconds_of(known.p99()) + self.guard.p99)
        self._limit = seconds_of(limit)
        above = known.above(limit)
        timed = new.timed()
        slow = new.above(limit)
        self.new_slow += slow
        self.new_timed += timed
        block = Block(old.timed(), old.above(limit), timed, slow)
        if self.alone:
            least = known.most(above, known.timed)
            self._slow.add(against_rate(block, max(2 * least, _TAIL), least))
            return
        rate = min(0.6 * _TAIL, (above + 0.2) / (known.timed + 100))
        self._slow.add(against_equal(block, rate, _TAIL))
        self._not_slow.add(against_rate(block, rate, _TAIL))

    def verdict(self) -> Verdict:
        """What is known by now."""
        least = self.guard.min_requests
        if self.new_answers < least:
            return Verdict("", False, f"{self.new_answers} of at least {least} requests")
        if not self.alone and self.old_answers < least:
            return Verdict("", False, f"{self.old_answers} of at least {least} requests of the others")
        if self._errors.rings:
            return Verdict(self._of_errors(), False, "")
        if self._slow.rings:
            return Verdict(self._of_latency(), False, "")
        if max(self._errors.evidence, self._slow.evidence) > _DOUBT:
            return Verdict("", False, "it may be worse, more requests will tell")
        if self.alone and not self._knows_the_others():
            return Verdict("", False, "those who know what the others did: it is not known here")
        quick = self._not_slow.found or not self.guard.p99
        if self.alone or (self._no_errors.found and quick):
            return Verdict("", True, "")
        lacking = "latencies" if self._no_errors.found else "errors"
        return Verdict("", False, f"requests that tell more about {lacking}")

    def _knows_the_others(self) -> bool:
        """Whether enough of them was seen to compare with, of all that is judged."""
        least, known = self.guard.min_requests, self.known
        return known.answers >= least and (not self.guard.p99 or known.timed >= max(least, _ENOUGH))

    def _of_errors(self) -> str:
        here = f"{self.new_bad} of {self.new_answers} requests failed ({self.new_bad / self.new_answers:.2%})"
        if self.alone:
            return f"{here}, before it {self.known.bad} of {self.known.answers} of the others"
        there = self.old_bad / max(1, self.old_answers)
        return f"{here}, of the others {self.old_bad} of {self.old_answers} ({there:.2%})"

    def _of_latency(self) -> str:
        p99 = seconds_of(self.known.p99()) * 1000
        return (
            f"{self.new_slow} of {self.new_timed} answers ({self.new_slow / max(1, self.new_timed):.2%}) took more "
            f"than {self._limit * 1000:.0f} ms; the others' p99 is {p99:.0f} ms, and {self.guard.p99 * 1000:.0f} ms "
            "more are allowed"
        )

    def view(self) -> dict[str, Any]:
        """What it goes by, as plain JSON; of evidence, the part that a verdict takes."""
        return {
            "requests": self.new_answers,
            "errors": self.new_bad,
            "others_requests": self.old_answers,
            "others_errors": self.old_bad,
            "slow_above_ms": round(self._limit * 1000, 1) or None,
            "slow": self.new_slow,
            "evidence": {
                "more_errors": round(self._errors.evidence, 3),
                "slower": round(self._slow.evidence, 3),
                "no_more_errors": round(self._no_errors.evidence, 3),
                "not_slower": round(self._not_slow.evidence, 3),
            },
        }
