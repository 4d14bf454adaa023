"""What a scenario has found: tables, laws that hold or do not, and plots; for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sidecar.simulate.plot import Plot


class Table(NamedTuple):
    """Rows of cells below their headings. The first column has the names."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Law(NamedTuple):
    """Something that has to be so: what, whether it is, and the figure that says so."""

    what: str
    holds: bool
    found: str


class Report:
    """What a run has found, in the order in which it is to be read."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.laws: list[Law] = []
        self.plots: list[Plot] = []

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Have a table more."""
        self.tables.append(Table(headings, rows))

    def law(self, what: str, holds: bool, found: str) -> None:
        """Have a law more."""
        self.laws.append(Law(what, holds, found))

    def plot(self, plot: Plot) -> None:
        """Have a plot more."""
        self.plots.append(plot)

    @property
    def broken(self) -> list[Law]:
        """The laws that do not hold."""
        return [law for law in self.laws if not law.holds]

    def text(self) -> str:
        """For a terminal."""
        lines: list[str] = []
        for table in self.tables:
            lines += [*_columns(table), ""]
        lines += [f"{'holds ' if law.holds else 'BROKEN'}  {law.what}: {law.found}" for law in self.laws]
        return "\n".join(lines).rstrip()

    def markdown(self) -> str:
        """For a page, without the plots."""
        lines: list[str] = []
        for table in self.tables:
            lines += [_row(table.headings), _row(["---"] + ["---:"] * (len(table.headings) - 1))]
            lines += [*map(_row, table.rows), ""]
        for law in self.laws:
            lines.append(f"- {law.what}: **{law.found}**{'' if law.holds else ', which is missed'}")
        return "\n".join(lines).rstrip()


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _columns(table: Table) -> Iterator[str]:
    lines = [table.headings, *table.rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(table.headings))]
    for line in lines:
        cells = [
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def seconds(value: float) -> str:
    """A time, to read."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def times(value: float) -> str:
    """A factor, to read."""
    return f"{value:.2f} ×"


def share(value: float) -> str:
    """A share of all, to read."""
    return f"{value:.1%}"
