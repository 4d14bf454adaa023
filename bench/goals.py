"""What a benchmark found beside its goals, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

#: The head of the table that :func:`row` makes rows of.
HEAD: Final = "| what | found | goal | |\n|---|---|---|---|"


class Goal(NamedTuple):
    """``met`` is None: that was only looked at, as it has no goal, or the run was too short to say."""

    what: str
    found: str
    goal: str
    met: bool | None


def row(it: Goal) -> str:
    """A row of the table."""
    verdict = "" if it.met is None else "met" if it.met else "**missed**"
    return f"| {it.what} | {it.found} | {it.goal} | {verdict} |"


def printed(goals: Iterable[Goal]) -> int:
    """Print the table, each row as it comes; how many goals were missed."""
    print(HEAD, flush=True)
    missed = 0
    for it in goals:
        missed += it.met is False
        print(row(it), flush=True)
    return missed


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which that share of them is; nan: there are none."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] if found else float("nan")
