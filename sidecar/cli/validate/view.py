"""The validation as it goes on: a line per check, in a terminal or anywhere else."""

from __future__ import annotations

from typing import Final, TextIO

from sidecar.cli.checklist import LONGEST, finding_lines
from sidecar.cli.validate.findings import Finding, Section
from sidecar.core.text import counted, printable

_WIDTH: Final = 22
_ERASE: Final = "\r\x1b[2K"


class View:
    """Prints to ``out``; ``colour`` and lines that are written over only if it is a terminal."""

    def __init__(self, out: TextIO, *, terminal: bool, colour: bool, detailed: bool) -> None:
        self._out = out
        self._terminal = terminal
        self._colour = colour
        self._detailed = detailed

    def section(self, name: str) -> None:
        """A section begins."""
        title = name.replace("_", " ")
        self._print(f"\x1b[1m{title}\x1b[0m" if self._colour else title)

    def finding(self, it: Finding) -> None:
        """A check has come out."""
        if self._terminal:
            self._out.write(_ERASE)
        for line in finding_lines(it.check, it.result, it.evidence, it.step, _WIDTH, colour=self._colour):
            self._print(line)
        if self._detailed and it.detail:
            self._print(f"  {'':<{_WIDTH}}  {printable(it.detail, LONGEST)}")

    def doing(self, text: str) -> None:
        """That is under way; only a terminal shows it, until the next finding."""
        if self._terminal:
            self._out.write(f"{_ERASE}  … {text}")
            self._out.flush()

    def done(self, sections: dict[str, Section], code: int, seconds: float) -> None:
        """All of it, in a line."""
        passed, failed, warned = (sum(it.count(r) for it in sections.values()) for r in ("good", "bad", "warn"))
        if self._terminal:
            self._out.write(_ERASE)
        text = f"{counted(passed, 'check')} passed, {failed} failed"
        text += f", {counted(warned, 'warning')}" if warned else ""
        verdict = "the mesh is valid" if not code else f"exit code {code}"
        self._print(f"\n{text} in {seconds:.1f} s: {verdict}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._terminal:
            self._out.write(_ERASE)
        self._print(text)

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)
