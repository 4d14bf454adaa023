"""What came of the canaries: changes of their states and requests in, rows of the table out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bench.goals import Goal
from sidecar.resilience.rollout import DONE, ROLLED_BACK, RUNNING

#: The share of all requests that may fail.
FAILED: Final = 0.01


#: What a new version is; see :func:`rows`.
GOOD: Final = "good"
BAD: Final = "bad"
GROSS: Final = "gross"


class Changed(NamedTuple):
    """A sidecar goes by another state from ``at`` on (seconds of the machine's clock); the text says why."""

    sidecar: str
    upstream: str
    at: float
    phase: str
    weight: int
    text: str


class Asked(NamedTuple):
    """Requests over one of the upstreams, and how many of them failed; when the first one was sent. ``others``: of the
    failed, those that no version has answered with an error, by their status; 0: no answer."""

    requests: int
    failed: int
    since: float
    others: Mapping[int, int]

    @property
    def share(self) -> float:
        """Of those that failed."""
        return self.failed / max(1, self.requests)


class Course(NamedTuple):
    """One canary. ``ends``: seconds from the step's begin until each sidecar went by its end, by sidecar, for those
    that did; ``spread``: between the first and the last of these; ``weight``: percent where it was then."""

    phase: str
    weight: int
    ends: dict[str, float]
    took: float
    spread: float
    text: str
    #: It went beyond its first step.
    more: bool

    def within(self, window: float) -> bool:
        """Whether each end came so soon."""
        return all(it <= window for it in self.ends.values())


def course(changes: Sequence[Changed], since: float) -> Course:
    """What became of one canary, whose requests began then. A step begins where the first sidecar notices it."""
    over = (ROLLED_BACK, DONE)
    ends = {it.sidecar: it.at for it in changes if it.phase in over}
    last = [it for it in changes if it.phase == RUNNING]
    weight = max((it.weight for it in last), default=0)
    more = len({it.weight for it in last}) > 1
    step = max(since, min((it.at for it in last if it.weight == weight), default=since))
    closing = [it for it in changes if it.phase in over]
    if not closing:
        return Course(RUNNING, weight, {}, 0.0, 0.0, "", more)
    first, final = min(closing, key=lambda it: it.at), max(ends.values())
    return Course(
        first.phase,
        weight,
        {name: at - step for name, at in ends.items()},
        final - since,
        final - first.at,
        first.text,
        more,
    )


def rows(
    what: str, kind: str, found: Course, asked: Asked, seconds: tuple[float, float], sidecars: int
) -> Iterator[Goal]:
    """``kind``: ``good``, ``bad``, or ``gross``: so bad that it has to be found within the window, however little is
    asked. ``seconds``: the guard's window, and how long there was load."""
    window, load = seconds
    everywhere = len(found.ends) == sidecars
    if kind == GOOD:
        yield _promoted(what, found, load, everywhere)
    else:
        yield _rolled_back(what, found, window if kind == GROSS else 0.0, seconds, everywhere)
    if found.ends:
        yield Goal(f"{what}: between the sidecars", f"{found.spread * 1000:.0f} ms", "0.5 s", found.spread <= 0.5)
    others = ", ".join(f"{count} × {status or 'no answer'}" for status, count in sorted(asked.others.items()))
    failed = f"{asked.share:.2%} ({asked.failed} of {asked.requests}{'; not by a version: ' if others else ''}{others})"
    yield Goal(f"{what}: of all requests failed", failed, "< 1 %", asked.share < FAILED)


def _rolled_back(what: str, found: Course, limit: float, seconds: tuple[float, float], everywhere: bool) -> Goal:
    """``limit``: seconds that it may take; 0: any, as long as it is not given more meanwhile."""
    window, load = seconds
    title = f"{what}: rolled back in all"
    goal = f"within {limit:g} s" if limit else "if late, no further before"
    if found.phase == DONE:
        return Goal(title, "**it was promoted**", goal, False)
    if found.phase == RUNNING:  # so many answers prove nothing yet
        more = "**it was given more**: " if found.more else "as nothing is proven, "
        met = False if limit or found.more else None
        return Goal(title, f"no: {more}{found.weight} % after {load:.0f} s; waits for: {found.text}", goal, met)
    at = ", ".join(f"{it:.1f}" for it in sorted(found.ends.values()))
    late = "within" if found.within(window) else "later than"
    met = everywhere and not found.more and (not limit or found.within(limit))
    return Goal(title, f"{at} s after the step of {found.weight} % began, {late} the window", goal, met)


def _promoted(what: str, found: Course, load: float, everywhere: bool) -> Goal:
    title = f"{what}: 100 % everywhere, by itself"
    if found.phase == RUNNING:
        return Goal(title, f"at {found.weight} % after {load:.0f} s; waits for: {found.text}", "yes", None)
    if found.phase == ROLLED_BACK:
        return Goal(title, f"**rolled back**: {found.text}", "yes", False)
    return Goal(title, f"after {found.took:.0f} s", "yes", everywhere)


def decided(changes: Sequence[Changed], upstream: str, sidecars: int) -> bool:
    """Whether all of them know its end."""
    over = {it.sidecar for it in changes if it.upstream == upstream and it.phase in (ROLLED_BACK, DONE)}
    return len(over) == sidecars
