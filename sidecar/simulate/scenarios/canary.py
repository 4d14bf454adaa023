"""Canaries that are as good as the old version, and such as are not: how many are rolled back, how many promoted, how
soon, and what it costs those who ask.

The judge and the states are the sidecar's own; requests are drawn second by second, with the shares of errors and of
latencies that a version has. The tail of latencies is exponential, as of a server with a queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from random import Random
from typing import Final, NamedTuple

from sidecar.resilience import rollout
from sidecar.resilience.canary_counts import Known, Side, step_of
from sidecar.resilience.canary_evidence import cut
from sidecar.resilience.canary_judge import Guard, Judge, Verdict
from sidecar.simulate.report import Report, seconds, share

RATE: Final = 500.0
STEPS: Final = (10, 25, 100)
EACH: Final = 300.0
GUARD: Final = Guard()
MANY: Final = 1000
#: Seconds between two looks; half an hour is enough for three steps of five minutes.
LOOK: Final = 4.0
UNTIL: Final = 1800.0
#: Of an answer that is not of the slowest tenth, seconds.
_QUICK: Final = 0.040
_TAIL: Final = 0.1


class Version(NamedTuple):
    """The share of errors; seconds by which p99 is away from p90, which is at 100 ms."""

    errors: float = 0.001
    spread: float = 0.100

    @property
    def p99(self) -> float:
        """Seconds."""
        return 0.1 + self.spread


OLD: Final = Version()
#: What the new version is → whether it breaks the guard.
NEW: Final[dict[str, tuple[Version, bool]]] = {
    "as the old one": (OLD, False),
    "1 % more errors": (Version(errors=0.011), True),
    "p99 + 50 %": (Version(spread=0.200), True),
}


class Case(NamedTuple):
    """Who calls the service: so many sidecars with so many requests a second in all. They look at bad ones every
    ``look`` seconds, at good ones every :data:`LOOK`, which takes less time and finds as much.
    ``within`` is the share of the bad ones that they have to roll back within the window."""

    name: str
    callers: int
    rate: float
    look: float
    within: float


#: With 200 requests a second, some of the bad ones have shown too little within the window.
CASES: Final = (
    Case("one sidecar, 500/s", 1, RATE, LOOK, 0.98),
    Case("four sidecars, 200/s in all", 4, 200.0, 1.0, 0.7),
)


class Outcome(NamedTuple):
    """How a rollout ended: its phase, after how many seconds, and the share of all requests that failed meanwhile."""

    phase: str
    took: float
    failed: float


def simulate(
    rng: Random, new: Version, *, rate: float = RATE, each: float = EACH, guard: Guard = GUARD,
    steps: Sequence[int] = STEPS, look: float = LOOK, until: float = UNTIL, callers: int = 1, told: bool = True,
) -> Outcome:  # fmt: skip
    """Run one rollout of a service with so many requests a second. They are from so many sidecars, which tell each
    other what they count after each look, unless they are not ``told``."""
    state = rollout.begin(steps, "simulation", 0.0)
    knows = [Known() for _ in range(callers)]
    judges = [Judge(guard, 1, len(steps), known) for known in knows]
    now, requests, failed = 0.0, 0, 0
    while state.moving and now < until:
        now += look
        for judge in judges:
            for side, version, part in (
                (judge.new, new, state.weight / 100), (judge.old, OLD, 1 - state.weight / 100),
            ):  # fmt: skip
                answers = int(rate / callers * part * look + rng.random())
                _answer(rng, side, version, answers)
                requests += answers
                failed += side.bad
        verdicts = [judge.look(now) for judge in judges]
        if told and callers > 1:
            verdicts = _tell(judges)
        if broken := [it.broken for it in verdicts if it.broken]:
            state = rollout.rolled_back(state, broken[0], "simulation", now)
        elif any(it.good and judge.judged(now) >= each for it, judge in zip(verdicts, judges, strict=True)):
            state = rollout.promoted(state, steps, "", "simulation", now)
            step, alone = state.step(steps), state.weight == 100
            judges = [Judge(guard, step, len(steps), known, alone=alone) for known in knows]
    return Outcome(state.phase, now, failed / max(1, requests))


def _tell(judges: Sequence[Judge]) -> list[Verdict]:
    """Each hears of the others, with what they know of the old version as it would be told, and judges by that."""
    verdicts = []
    known = [cut(judge.known) for judge in judges]
    for number, judge in enumerate(judges):
        others = {str(it): other.here for it, other in enumerate(judges) if it != number}
        elsewhere = Known()
        for it, other in enumerate(known):
            if it != number:
                elsewhere.add(other.answers, other.bad, other.latencies)
        verdicts.append(judge.hear(others, elsewhere, judge.here))
    return verdicts


def _answer(rng: Random, side: Side, version: Version, answers: int) -> None:
    slow = binomial(rng, answers, _TAIL)
    side.answers += answers
    side.bad += binomial(rng, answers, version.errors)
    quick = step_of(_QUICK)
    side.latencies[quick] = side.latencies.get(quick, 0) + answers - slow
    scale = version.spread / log(10)
    for _ in range(slow):
        number = step_of(0.1 - scale * log(1 - rng.random()))
        side.latencies[number] = side.latencies.get(number, 0) + 1


def binomial(rng: Random, count: int, p: float) -> int:
    """How many of ``count`` happen, each with the same small probability: drawn by the gaps between them."""
    if p <= 0 or count <= 0:
        return 0
    found, at, scale = 0, 0, log(1 - p)
    while True:
        at += int(log(1 - rng.random()) / scale) + 1
        if at > count:
            return found
        found += 1


def many(seed: int, name: str, count: int = MANY, **settings: float) -> list[Outcome]:
    """So many rollouts of one kind."""
    return [simulate(Random(f"{seed} {name} {number}"), NEW[name][0], **settings) for number in range(count)]  # type: ignore[arg-type]


def run(seed: int) -> Report:
    report = Report()
    for case in CASES:
        rows = []
        for name, (_, bad) in NEW.items():
            found = many(seed, name, rate=case.rate, callers=case.callers, look=case.look if bad else LOOK)
            back = sorted(it.took for it in found if it.phase == rollout.ROLLED_BACK)
            done = sum(1 for it in found if it.phase == rollout.DONE)
            within = sum(1 for it in back if it <= GUARD.window)
            failed = max(it.failed for it in found)
            rows.append([
                name, f"{len(back)}", f"{done}", f"{within}", seconds(_quantile(back, 0.5)),
                seconds(_quantile(back, 0.99)), share(failed),
            ])  # fmt: skip
            _laws(report, f"{case.name}, {name}", case.within if bad else None, (len(back), done, within), failed)
        report.table(
            [f"{case.name}: the new version", "rolled back", "promoted", "rolled back in 60 s", "after, median",
             "after, p99", "requests that failed, at most"],
            rows,
        )  # fmt: skip
    return report


def _laws(report: Report, name: str, least: float | None, found: tuple[int, int, int], failed: float) -> None:
    """``least``: the share of the bad ones that has to be rolled back within the window; None: it is good. ``found``:
    rolled back, promoted, and rolled back within the window."""
    back, done, within = found
    most = MANY // 100
    if least is None:
        report.law(f"{name}: at most 1 % are rolled back", back <= most, f"{back}")
        report.law(f"{name}: all others are promoted to the end", done == MANY - back, f"{done}")
        return
    report.law(f"{name}: at most 1 % are promoted to the end", done <= most, f"{done}")
    report.law(
        f"{name}: at least {least * 100:.0f} % are rolled back within the window", within >= least * MANY, f"{within}"
    )
    report.law(f"{name}: less than 1 % of all requests fail meanwhile", failed < 0.01, share(failed))


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))] if values else 0.0
