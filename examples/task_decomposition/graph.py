"""A task's text as a graph of steps. The same text always makes the same graph.

How it is read:

1. The text falls into *phases* at line ends, full stops, semicolons and the words "then", "after that", "afterwards"
   and "finally". A phase begins when the one before is done.
2. A phase falls into *steps* at commas, "and", "while" and "meanwhile". The steps of a phase do not wait for one
   another.
3. Each step waits for all steps of the phase before. ``(needs 1, 3)`` behind a step says otherwise: it waits for these
   alone, by their numbers from 1 in the order of the text; ``(needs nothing)`` for none.
4. A number, a dash or a star in front of a line ("2.", "-") is not part of a step, and a step is never empty.

Of what a model has written, each line is one step, so that its numbers are those of lines.

A step's weight is its number of words. The critical path is the heaviest way through the graph: what the task takes
when everything that may run side by side does. ``level`` is the earliest round in which a step can run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

#: Larger tasks are refused: what one request can cost is bounded.
MAX_TEXT = 20_000
MAX_STEPS = 500

_NEEDS = re.compile(r"\(needs (?P<which>nothing|\d{1,6}(?:\s*,\s*\d{1,6})*)\)", re.IGNORECASE)
_PHASE = re.compile(r"\n+|;|\.(?=\s|$)|\b(?:and then|then|after that|afterwards|finally)\b", re.IGNORECASE)
_STEP = re.compile(r",|\b(?:and|while|meanwhile)\b", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:\d{1,6}[.)]|[-*•])\s+", re.MULTILINE)


class Unreadable(Exception):
    """There is no graph for this text; why."""


@dataclass(slots=True)
class Step:
    number: int
    title: str
    after: list[int] = field(default_factory=list)
    level: int = 0


@dataclass(slots=True)
class Graph:
    steps: list[Step]
    critical_path: list[int]

    def document(self) -> dict[str, object]:
        """As it is answered."""
        return {
            "steps": [{"id": it.number, "title": it.title, "after": it.after, "level": it.level} for it in self.steps],
            "levels": max(it.level for it in self.steps) + 1,
            "critical_path": self.critical_path,
        }


def decompose(text: str, *, by_line: bool = False) -> Graph:
    """The graph of a text. ``by_line``: each line is one step. Raises Unreadable."""
    if len(text) > MAX_TEXT:
        raise Unreadable(f"it has {len(text)} characters, and {MAX_TEXT} are taken")
    steps = _steps(text, by_line)
    if not steps:
        raise Unreadable("it has no step")
    if len(steps) > MAX_STEPS:
        raise Unreadable(f"it has {len(steps)} steps, and {MAX_STEPS} are taken")
    order = _order(steps)
    return Graph(steps, _critical_path(steps, order))


def _steps(text: str, by_line: bool) -> list[Step]:
    found: list[Step] = []
    before: list[int] = []
    # What is in brackets says what a step needs and must not be split at its commas: it is taken out, and put back.
    needs: list[str] = []

    def aside(match: re.Match[str]) -> str:
        needs.append(match["which"].lower())
        return f" \0{len(needs) - 1}\0 "

    plain = _NEEDS.sub(aside, _BULLET.sub("", text.replace("\0", " ")))
    for phase in plain.splitlines() if by_line else _PHASE.split(plain):
        now = []
        for part in [phase] if by_line else _STEP.split(phase):
            said = re.findall(r"\0(\d+)\0", part)
            title = " ".join(re.sub(r"\0\d+\0", " ", part).split()).strip(" .:")
            if not title:
                continue
            step = Step(len(found) + 1, title, list(before))
            if said:
                which = needs[int(said[-1])]
                step.after = [] if which == "nothing" else sorted({int(it) for it in which.split(",")})
            found.append(step)
            now.append(step.number)
        before = now or before
    return found


def _order(steps: list[Step]) -> list[int]:
    """Each number behind those that it waits for; levels are set on the way."""
    for step in steps:
        for it in step.after:
            if not 1 <= it <= len(steps):
                raise Unreadable(f"step {step.number} needs {it}, and there are {len(steps)} steps")
    try:
        order = list(TopologicalSorter({it.number: it.after for it in steps}).static_order())
    except CycleError as error:
        raise Unreadable(f"steps need each other in a circle: {' → '.join(map(str, error.args[1]))}") from error
    for number in order:
        step = steps[number - 1]
        step.level = max((steps[it - 1].level + 1 for it in step.after), default=0)
    return order


def _critical_path(steps: list[Step], order: list[int]) -> list[int]:
    cost: dict[int, int] = {}
    came_from: dict[int, int] = {}
    for number in order:
        step = steps[number - 1]
        # Of equally heavy ways the one with the lower number, so that there is one answer.
        heaviest = max(step.after, key=lambda it: (cost[it], -it), default=0)
        came_from[number] = heaviest
        cost[number] = cost.get(heaviest, 0) + len(step.title.split())
    at = max(order, key=lambda it: (cost[it], -it))
    path = []
    while at:
        path.append(at)
        at = came_from[at]
    return path[::-1]
