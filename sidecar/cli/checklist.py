"""How a check is printed: a mark, its name, what was seen, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.core.text import printable

#: Characters of a text of which more is not shown.
LONGEST: Final = 2000

_MARKS: Final = {"good": "✓", "bad": "✗", "warn": "!", "none": "–"}
_COLOURS: Final = {"good": "\x1b[32m", "bad": "\x1b[31m", "warn": "\x1b[33m", "none": "\x1b[2m"}
_PLAIN: Final = "\x1b[0m"


def finding_lines(check: str, result: str, evidence: str, step: str, width: int, *, colour: bool) -> Iterator[str]:
    """One finding, to read; ``width`` is that of the longest check's name. ``result`` is good, bad, warn or none."""
    mark = _MARKS[result]
    if colour:
        mark = f"{_COLOURS[result]}{mark}{_PLAIN}"
    yield f"{mark} {check:<{width}}  {printable(evidence, LONGEST)}"
    if step:
        yield f"  {'':<{width}}  → {printable(step, LONGEST)}"
