"""Whether a new version does as well as the old one: counts of both in, a verdict out.

Two things are judged apart: how many answers are errors, and how many are slow. An answer is slow when it took longer
than the old version's p99 and what the guard allows beyond: of the old version's answers that is less than one in a
hundred, of a version that breaks the guard one in a hundred or more. So both are rates, and are compared by
:mod:`sidecar.resilience.sequential_test`, second by second, since one time of the day is not like another. Nothing else
of the latencies is bet on, though more would be found by it: what is slower below that limit, the guard allows.

The new version is found to be bad when there is proof that it is worse, and good when there is proof that it is not
worse by as much as the guard says. Between the two nothing is said, and more answers are waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sidecar.resilience.canary_counts import TAIL, Known, Side, limit_of, seconds_of
from sidecar.resilience.canary_evidence import Evidence, together
from sidecar.resilience.sequential_test import Alarm, Block, Proof, against_equal, against_rate, against_worse

#: How likely it is at most that a version is found bad that is not, in all of a rollout: by what all sidecars have
#: seen, and by what one of them has seen by itself.
FALSE_ALARM: Final = 0.0045
FALSE_ALARM_HERE: Final = 0.0005
#: How likely it is at most that one is found good, in a step, that breaks the guard.
FALSE_PROOF: Final = 0.005
#: A p99 takes so many answers of the old version.
_ENOUGH: Final = 300
#: With so many of its own, a sidecar judges by the p99 of its own old version; before, by that of all.
_ENOUGH_HERE: Final = 1000
#: Answers that what is usual weighs, where a share of slow ones is to be told: of so many, two are slow.
_WEIGHS: Final = 1000.0
#: Of what an alarm needs; with more, the version is not called good.
_DOUBT: Final = 0.5
#: Sidecars whose evidence is put together; more are not heard.
MOST: Final = 256


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


def part_of(step: int, steps: int) -> float:
    """The part of the risk of a false alarm that a step has: the first one half, as most that is bad is found there."""
    if steps <= 1:
        return 1.0
    return 0.5 if step <= 1 else 0.5 / (steps - 1)


class Judge:
    """Judges the ``step`` (from 1 on) of a rollout that has ``steps`` of them. ``known`` is what is known of the old
    version from the steps before; ``alone``: all requests go to the new version, so that is all there is to compare
    with.

    It judges by what it sees itself and by what it has heard of others (:meth:`hear`), and with a small part of the
    risk by the former alone: a version that fails for one caller may do well for all others."""

    def __init__(self, guard: Guard, step: int, steps: int, known: Known | None = None, *, alone: bool = False) -> None:
        self.guard = guard
        self.alone = alone
        self.known = known or Known()
        self.old, self.new = Side(), Side()
        part = part_of(step, steps) / 2
        self._errors, self._slow = Alarm(FALSE_ALARM * part), Alarm(FALSE_ALARM * part)
        self._errors_here, self._slow_here = Alarm(FALSE_ALARM_HERE * part), Alarm(FALSE_ALARM_HERE * part)
        self._no_errors, self._not_slow = Proof(FALSE_PROOF), Proof(FALSE_PROOF)
        #: What was seen here in this step; and what has been told of it, while that is what is judged by.
        self.here = Evidence()
        self._told: Evidence | None = None
        #: What others have seen, by who says so. It stays when they are gone.
        self._others: dict[str, Evidence] = {}
        self._known_elsewhere = Known()
        #: All of it, as it was judged last.
        self.seen = Evidence()
        #: Seconds: what is slow takes longer; and the old version's p99 that it goes by.
        self._limit = self._p99 = 0.0
        #: When the first answer of the new version was seen; when the current window began.
        self._since: float | None = None
        self._window = 0.0

    def hear(self, others: Mapping[str, Evidence], known: Known, told: Evidence | None) -> Verdict:
        """Judge by what others have seen in the same step, and know of the old version. ``told``: what they have heard
        of this one, which is judged by in place of all that was seen here, so that everybody who looks has seen one
        course of events; None: they have heard nothing."""
        for name, evidence in others.items():
            before = self._others.get(name)
            if before is None and len(self._others) >= MOST:
                continue
            if before is None or (evidence.new >= before.new and evidence.old >= before.old):
                self._others[name] = evidence  # else it is an older one: the registry was restored
        self._known_elsewhere = known
        self._told = told if self._others else None
        self._weigh()
        return self.verdict()

    def cut_off(self) -> None:
        """Others cannot hear of this one now. It judges by what they said last, and by all that it sees itself."""
        self._told = None

    @property
    def sidecars(self) -> int:
        """How many sidecars' evidence it is."""
        return 1 + len(self._others)

    def look(self, now: float) -> Verdict:
        """Judge what has come since the last look. ``now`` is seconds on a clock that never goes back."""
        old, new = self.old, self.new
        self.old, self.new = Side(), Side()
        known = self._known()
        errors, no_errors = self._of_errors(Block(old.answers, old.bad, new.answers, new.bad), known)
        timed, slow, slower, not_slower = self._of_latency(old, new, known)
        more = Evidence(
            new.answers, new.bad, timed, slow, old.answers, old.bad, errors, slower, no_errors, not_slower
        )  # fmt: skip
        self.known.add(old.answers, old.bad, old.latencies)
        self.here = together((self.here, more))
        self._go_on(now)
        self._errors_here.add(errors)
        self._slow_here.add(slower)
        self._weigh()
        return self.verdict()

    def _weigh(self) -> None:
        """Bet on by what is new of what all have seen."""
        before = self.seen
        self.seen = seen = together((self._told or self.here, *self._others.values()))
        self._errors.add(seen.errors - before.errors)
        self._slow.add(seen.slower - before.slower)
        self._no_errors.add(seen.no_errors - before.no_errors)
        self._not_slow.add(seen.not_slower - before.not_slower)

    def _go_on(self, now: float) -> None:
        """Begin, or begin another window."""
        if self._since is None:
            if self.seen.new or self.here.new:
                self._since = self._window = now
        elif now - self._window >= self.guard.window:
            self._window = now
            for alarm in (self._errors, self._slow, self._errors_here, self._slow_here):
                alarm.begin()

    def outrun(self, side: Side, seconds: float) -> None:
        """A try of that side was cut off after so many seconds, as another one beside it was quicker. Whether it would
        have failed, nobody knows; it would have taken longer, which says something where it is slow already."""
        if 0.0 < self._limit < seconds:
            side.took(seconds)

    def judged(self, now: float) -> float:
        """For how long the new version was seen in this step, seconds."""
        return 0.0 if self._since is None else now - self._since

    def _known(self) -> Known:
        """What is known of the old version, here and elsewhere."""
        known = Known()
        for it in (self.known, self._known_elsewhere):
            known.add(it.answers, it.bad, it.latencies)
        return known

    def _compared(self, known: Known, here: int, least: int) -> Known:
        """What the new version is compared with where it is not asked beside the old one: what that did here, if so
        many answers are enough. Others may have other rates anyhow, and what is usual here would look like the new
        version's fault."""
        return self.known if here >= least else known

    def _of_errors(self, block: Block, known: Known) -> tuple[float, float]:
        """What a block is worth as evidence of more errors, and of no more."""
        by = self.guard.error_rate
        if self.alone:
            known = self._compared(known, self.known.answers, self.guard.min_requests)
            if known.answers < self.guard.min_requests:
                return 0.0, 0.0
            least = known.most(known.bad, known.answers)
            return against_rate(block, min(0.95, least + by), least), 0.0
        rate = min(0.9, known.rate())
        return against_equal(block, rate, min(0.95, rate + by)), against_worse(block, rate, by)

    def _of_latency(self, old: Side, new: Side, known: Known) -> tuple[int, int, float, float]:
        """How many answers of the new version were judged, how many were slow; what that is worth as evidence of one
        that is slower, and of one that is not. What is usual differs from caller to caller, so this one goes by its own
        old version's p99 as soon as it knows that: by everybody's, what is slow only where all is quick would pass."""
        least = max(self.guard.min_requests, _ENOUGH)
        if not self.guard.p99 or known.timed < least:
            return 0, 0, 0.0, 0.0
        usual = self._usual(known)
        known = self._compared(known, self.known.timed, least if self.alone else max(least, _ENOUGH_HERE))
        self._p99 = known.p99()
        limit = limit_of(self._p99, self.guard.p99)
        self._limit = seconds_of(limit)
        above = known.above(limit)
        timed, slow = new.timed(), new.above(limit)
        block = Block(old.timed(), old.above(limit), timed, slow)
        if self.alone:
            most = known.most(above, known.timed)
            return timed, slow, against_rate(block, max(2 * most, TAIL), most), 0.0
        rate = min(0.6 * TAIL, (above + usual * _WEIGHS) / (known.timed + _WEIGHS))
        return timed, slow, against_equal(block, rate, TAIL), against_rate(block, rate, TAIL)

    def _usual(self, known: Known) -> float:
        """The share of the old version's answers that take longer than its p99 and what is allowed, as far as it can be
        told."""
        above = known.above(limit_of(known.p99(), self.guard.p99))
        return (above + 0.2 * TAIL * _WEIGHS) / (known.timed + _WEIGHS)

    def verdict(self) -> Verdict:
        """What is known by now."""
        least, seen, here = self.guard.min_requests, self.seen, self.here
        if seen.new < least:
            return Verdict("", False, f"{seen.new} of at least {least} requests")
        if not self.alone and seen.old < least:
            return Verdict("", False, f"{seen.old} of at least {least} requests of the others")
        by = f"; {self.sidecars} sidecars have counted" if self._others else ""
        if self._errors.rings:
            return Verdict(self._errors_of(seen) + by, False, "")
        if self._slow.rings:
            return Verdict(self._latency_of(seen) + by, False, "")
        if here.new >= least and (self.alone or here.old >= least):
            by = "; one sidecar alone has seen this"  # where there are no others, those above ring before
            if self._errors_here.rings:
                return Verdict(self._errors_of(here) + by, False, "")
            if self._slow_here.rings:
                return Verdict(self._latency_of(here) + by, False, "")
        alarms = (self._errors, self._slow, self._errors_here, self._slow_here)
        if max([it.evidence for it in alarms]) > _DOUBT:
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
        least, known = self.guard.min_requests, self._known()
        return known.answers >= least and (not self.guard.p99 or known.timed >= max(least, _ENOUGH))

    def _errors_of(self, seen: Evidence) -> str:
        text = f"{seen.new_bad} of {seen.new} requests failed ({seen.new_bad / seen.new:.2%})"
        if self.alone:
            known = self._known()
            if seen is self.here:
                known = self._compared(known, self.known.answers, self.guard.min_requests)
            return f"{text}, before it {known.bad} of {known.answers} of the others"
        return f"{text}, of the others {seen.old_bad} of {seen.old} ({seen.old_bad / seen.old:.2%})"

    def _latency_of(self, seen: Evidence) -> str:
        elsewhere = ", or what that is for another caller" if self._others and seen is not self.here else ""
        return (
            f"{seen.slow} of {seen.timed} answers ({seen.slow / max(1, seen.timed):.2%}) took more "
            f"than {self._limit * 1000:.0f} ms{elsewhere}; the others' p99 is {self._p99 * 1000:.0f} ms, and "
            f"{self.guard.p99 * 1000:.0f} ms more are allowed"
        )

    def view(self) -> dict[str, Any]:
        """What it goes by, as plain JSON; of evidence, the part that a verdict takes."""
        seen = self.seen
        return {
            "sidecars": self.sidecars,
            "requests": seen.new,
            "errors": seen.new_bad,
            "requests_here": self.here.new,
            "errors_here": self.here.new_bad,
            "others_requests": seen.old,
            "others_errors": seen.old_bad,
            "slow_above_ms": round(self._limit * 1000, 1) or None,
            "slow": seen.slow,
            "evidence": {
                "more_errors": round(self._errors.evidence, 3),
                "slower": round(self._slow.evidence, 3),
                "more_errors_here": round(self._errors_here.evidence, 3),
                "slower_here": round(self._slow_here.evidence, 3),
                "no_more_errors": round(self._no_errors.evidence, 3),
                "not_slower": round(self._not_slow.evidence, 3),
            },
        }
