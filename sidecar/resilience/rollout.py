"""What state a rollout is in, and which state follows when somebody asks for it: plain values, which sidecars share.

Each change makes a higher revision. Who changes it has seen a revision, and changes that one: whoever keeps the state
refuses a change of an older one, so of two that are asked for at once one is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sidecar.core.text import printable, utf8

RUNNING: Final = "running"
PAUSED: Final = "paused"
ROLLED_BACK: Final = "rolled_back"
DONE: Final = "done"
PHASES: Final = (RUNNING, PAUSED, ROLLED_BACK, DONE)

#: What can be asked for.
ACTIONS: Final = ("promote", "pause", "resume", "rollback")
#: Characters of a reason and of who has asked; bytes of a state in all.
MAX_TEXT: Final = 300
MAX_SIZE: Final = 4096
#: The highest revision, and attempt.
_MOST_REVISIONS: Final = 1 << 53


class NotNow(Exception):
    """That cannot be done in this state; the text says why."""


class Unreadable(ValueError):
    """What was found is no state; the text says what is wrong with it."""


class State(NamedTuple):
    """Which part of the requests the new version gets (percent), and what becomes of it. ``attempt`` is how often it
    has begun; ``reason`` and ``by`` are of the last change, ``at`` its Unix time. ``since`` is when it got
    that part."""

    revision: int
    attempt: int
    phase: str
    weight: int
    reason: str
    by: str
    at: float
    since: float = 0.0

    @property
    def moving(self) -> bool:
        """Whether requests go to both, or may soon: it is to be judged."""
        return self.phase in (RUNNING, PAUSED)

    def step(self, steps: Sequence[int]) -> int:
        """The number of its step, from 1 on; 0: it gets less than in the first."""
        return sum([self.weight >= it for it in steps])


def begin(steps: Sequence[int], by: str, at: float, before: State | None = None) -> State:
    """The first step, for the first time or once more."""
    revision, attempt = (_next(before.revision), _next(before.attempt)) if before is not None else (1, 1)
    return State(revision, attempt, RUNNING, steps[0], "it begins" if before is None else "it begins anew", by, at, at)


def promoted(state: State, steps: Sequence[int], reason: str, by: str, at: float) -> State:
    """One step further; behind the last one it is done. Raises :class:`NotNow`."""
    if not state.moving:
        raise NotNow(f"it is {told(state)}; resume lets it begin anew")
    following = next((it for it in steps if it > state.weight), None)
    if following is None:
        return _changed(state, DONE, state.weight, reason, by, at)
    return _changed(state, RUNNING, following, reason, by, at)


def paused(state: State, by: str, at: float) -> State:
    """It stays at its step until somebody says otherwise. Raises :class:`NotNow`."""
    if state.phase != RUNNING:
        raise NotNow(f"it is {told(state)}")
    return _changed(state, PAUSED, state.weight, "it was paused", by, at)


def resumed(state: State, steps: Sequence[int], by: str, at: float) -> State:
    """It goes on; one that is over begins anew. Raises :class:`NotNow`."""
    if state.phase == RUNNING:
        raise NotNow("it is running")
    if state.phase == PAUSED:
        return _changed(state, RUNNING, state.weight, "it goes on", by, at)
    return begin(steps, by, at, state)


def rolled_back(state: State, reason: str, by: str, at: float) -> State:
    """The new version gets nothing, whatever others know by then. Raises :class:`NotNow`."""
    if state.phase == ROLLED_BACK:
        raise NotNow("it is rolled back already")
    return above(_changed(state, ROLLED_BACK, 0, reason, by, at), at)


def above(state: State, at: float) -> State:
    """It with a revision above all that others may know: what is older than theirs they take for what a registry that
    was restored has, and put theirs back. As revisions count changes, the Unix time ``at`` is above any of them."""
    return state._replace(revision=min(max(state.revision, int(at)), _MOST_REVISIONS))


def asked(action: str, state: State, steps: Sequence[int], by: str, at: float) -> State:
    """What one of :data:`ACTIONS` makes of it. Raises :class:`NotNow`."""
    if action == "promote":
        return promoted(state, steps, "it was promoted by hand", by, at)
    if action == "pause":
        return paused(state, by, at)
    if action == "resume":
        return resumed(state, steps, by, at)
    return rolled_back(state, "it was rolled back by hand", by, at)


def told(state: State) -> str:
    """Its phase, for people."""
    return state.phase.replace("_", " ")


def summary(state: State) -> str:
    """It in a few words."""
    return f"{told(state)} with {state.weight} %, by {state.by or 'somebody'}"


def sentence(state: State) -> str:
    """What becomes of the new version, to go on after its name."""
    return {
        RUNNING: f"gets {state.weight} %",
        PAUSED: f"stays at {state.weight} %",
        ROLLED_BACK: "is rolled back and gets nothing",
        DONE: f"is done, with {state.weight} %",
    }[state.phase]


def encode(state: State) -> bytes:
    """As it is kept."""
    fields = state._asdict() | {"reason": printable(utf8(state.reason), MAX_TEXT), "by": printable(utf8(state.by), 100)}
    return json.dumps(fields, separators=(",", ":")).encode()


def read(data: bytes, most: int) -> dict[str, Any]:
    """An object of JSON of so many bytes at most, as the registry has it. Raises :class:`Unreadable`."""
    if len(data) > most:
        raise Unreadable(f"it has more than {most} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("it is no JSON") from None
    if not isinstance(found, dict):
        raise Unreadable("it is no object")
    return found


def decode(data: bytes) -> State:
    """What :func:`encode` made, believed no more than it has to be. Raises :class:`Unreadable`."""
    found = read(data, MAX_SIZE)
    phase = found.get("phase")
    if phase not in PHASES:
        raise Unreadable("its phase is none")
    at = _time(found.get("at"))
    weight = _number(found, "weight", 0, 100)
    if phase == ROLLED_BACK and weight:
        raise Unreadable("it is rolled back, and has a weight")
    return State(
        _number(found, "revision", 1, _MOST_REVISIONS),
        _number(found, "attempt", 1, _MOST_REVISIONS),
        phase,
        weight,
        _text(found, "reason", MAX_TEXT),
        _text(found, "by", 100),
        at,
        _time(found.get("since", at)),  # not told by earlier versions
    )


def _changed(state: State, phase: str, weight: int, reason: str, by: str, at: float) -> State:
    since = state.since if weight == state.weight else at
    return State(_next(state.revision), state.attempt, phase, weight, reason, by, at, since)


def _next(number: int) -> int:
    """The number of the next revision or attempt. What somebody has set to the highest that is read stays there: the
    next change has to be readable, too."""
    return min(number + 1, _MOST_REVISIONS)


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise Unreadable("its time is none")
    return float(value)


def _number(found: dict[str, Any], name: str, least: int, most: int) -> int:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Unreadable(f"its {name} is no number from {least} to {most}")
    return value


def _text(found: dict[str, Any], name: str, most: int) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise Unreadable(f"its {name} is no text")
    return printable(utf8(value), most)
