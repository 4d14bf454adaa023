"""What is wrong with a configuration file, every problem of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: More problems than this are not collected: nobody reads them, and a hostile file could have many.
MAX_PROBLEMS = 100

#: Keys longer than this are not compared (the comparison is quadratic in their length).
_MAX_COMPARED = 64


class Line(int):
    """The number of a line, from 1, that knows the column, too; 0: there is none."""

    column: int

    def __new__(cls, line: int, column: int = 0) -> Line:
        found = super().__new__(cls, line)
        found.column = column
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    ``path`` is where, as ``upstreams.ollama.retry.max_attempts`` (empty: the file as a whole); ``found`` what stands
    there (never a secret), ``allowed`` what may, ``nearest`` a known key or value that may have been meant. ``line``
    counts from 1; 0 when there is none. ``column`` is known where that is a :class:`Line`.
    """

    path: str
    message: str
    found: str = ""
    allowed: str = ""
    nearest: str = ""
    line: int = 0

    @property
    def column(self) -> int:
        return self.line.column if isinstance(self.line, Line) else 0

    def as_dict(self, filename: str) -> dict[str, Any]:
        """For machines. Everything is there always; what is unknown is empty or 0."""
        return {
            "file": filename,
            "line": int(self.line),
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "found": self.found,
            "allowed": self.allowed,
            "nearest": self.nearest,
        }

    def text(self, filename: str) -> str:
        """The block a user reads."""
        place = ":".join([filename, *(str(number) for number in (int(self.line), self.column) if number)])
        lines = [": ".join(part for part in (place, self.path, self.message) if part)]
        if self.found:
            lines.append(f"    found:   {self.found}")
        if self.allowed:
            lines.append(f"    allowed: {self.allowed}")
        if self.nearest:
            lines.append(f"    did you mean {self.nearest}?")
        return "\n".join(lines)


class ConfigError(Exception):
    """A configuration that cannot be used. ``problems`` is never empty and is in the order of the file's lines;
    ``str()`` is readable text, a block per problem."""

    def __init__(self, filename: str, problems: Sequence[Problem], *, more: bool = False) -> None:
        super().__init__(filename, problems)
        self.filename = filename
        self.problems: list[Problem] = sorted(problems, key=lambda problem: (problem.line, problem.column))
        #: Whether there were more problems than were collected.
        self.more = more
        #: ``log.format``, as far as that could be read.
        self.log_format = "json"

    def as_dict(self) -> dict[str, Any]:
        """For machines: ``{"problems": [{"file", "line", "column", "path", "message", …}], "more"}``."""
        return {"problems": [problem.as_dict(self.filename) for problem in self.problems], "more": self.more}

    def __str__(self) -> str:
        blocks = [problem.text(self.filename) for problem in self.problems]
        if self.more:
            blocks.append(f"{self.filename}: and more; only the first {len(self.problems)} problems are shown")
        return "\n".join(blocks)


class TooManyProblems(Exception):
    """Raised inside the loader to stop collecting."""


def nearest(word: str, known: Iterable[str], least: float = 0.6) -> str:
    """The known word that is most like ``word``, or an empty string when none is, by ``least`` of 1."""
    if len(word) > _MAX_COMPARED:
        return ""
    from difflib import get_close_matches  # only a file with errors pays for this import

    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=least)
    return by_lower[matches[0]] if matches else ""
