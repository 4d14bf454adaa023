"""Line charts as SVG: a few lines over one axis of time, with a legend. No more than that is needed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final, NamedTuple

#: Colours that can be told apart, also by those who do not see all of them (Okabe and Ito, 2008), on white.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES: Final = ("", "6 3", "2 3", "8 3 2 3")
_WIDTH: Final = 760
#: Of the lines' own field, and the room around it; the legend comes on top.
_FIELD: Final = 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 24, 44
_LEGEND: Final = 18


class Line(NamedTuple):
    """A line by its points."""

    name: str
    points: Sequence[tuple[float, float]]


class Plot(NamedTuple):
    """A chart: the ``name`` of its file, a title that says what is to be seen, the axes' labels, and the lines.
    ``log``: the upright axis is logarithmic; ``shade``: a stretch of time to be marked."""

    name: str
    title: str
    across: str
    up: str
    lines: Sequence[Line]
    log: bool = False
    shade: tuple[float, float] | None = None

    def svg(self) -> str:
        """The chart as a file."""
        return "\n".join(_draw(self)) + "\n"


class _Axis:
    """From values to pixels, with marks at round values. ``tight``: it ends where the values do."""

    def __init__(
        self, values: Sequence[float], begin: float, end: float, log: bool = False, tight: bool = False
    ) -> None:
        self.log = log
        self._begin, self._end = begin, end
        least, most = min(values, default=0.0), max(values, default=1.0)
        if log:
            least = 10.0 ** floor(log10(min((v for v in values if v > 0), default=0.1)) + 1e-9)
            most = 10.0 ** ceil(log10(max(most, least * 10)) - 1e-9)
            self.marks = [10.0**n for n in range(round(log10(least)), round(log10(most)) + 1)]
        else:
            least = min(least, 0.0)
            step = _round_step((most - least) / 5 or 1.0)
            if not tight or most <= least:
                most = ceil(most / step - 1e-9) * step or step
            self.marks = [least + n * step for n in range(floor((most - least) / step + 1e-9) + 1)]
        self._least, self._most = least, most

    def at(self, value: float) -> float:
        """Where that value is."""
        if self.log:
            share = log10(max(value, self._least) / self._least) / log10(self._most / self._least)
        else:
            share = (value - self._least) / (self._most - self._least)
        return self._begin + share * (self._end - self._begin)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 and their tenfolds."""
    power = 10.0 ** floor(log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)


def _draw(plot: Plot) -> Iterator[str]:
    points = [point for line in plot.lines for point in line.points]
    places = list(_places(plot.lines))
    top = _TOP + _LEGEND * (max((row for row, _ in places), default=0) + 1) + 8
    bottom = top + _FIELD
    height = bottom + _BOTTOM
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT, tight=True)
    up = _Axis([y for _, y in points], bottom, top, plot.log)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img"><title>{escape(plot.title)}</title>'
    )
    yield f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
    if plot.shade is not None:
        begin, end = across.at(plot.shade[0]), across.at(plot.shade[1])
        yield f'<rect x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="{_FIELD}" fill="#eee"/>'
    yield f'<text x="{_LEFT}" y="18" font-size="14" font-weight="600">{escape(plot.title)}</text>'
    yield from _axes(plot, across, up, top, bottom)
    for number, line in enumerate(plot.lines):
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line.points)
        yield f'<polyline points="{path}" fill="none" {_look(number)} stroke-linejoin="round"/>'
    for number, (line, (row, x)) in enumerate(zip(plot.lines, places, strict=True)):
        y = _TOP + _LEGEND * row + 11
        yield f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" {_look(number)}/>'
        yield f'<text x="{x + 27}" y="{y + 4}" fill="#333">{escape(line.name)}</text>'
    yield "</svg>"


def _axes(plot: Plot, across: _Axis, up: _Axis, top: int, bottom: int) -> Iterator[str]:
    for mark in up.marks:
        y = up.at(mark)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{mark:,g}</text>'
    for mark in across.marks:
        yield f'<text x="{across.at(mark):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#333">{mark:g}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle" fill="#333">{escape(plot.across)}</text>'
    place = f'transform="translate(14 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle" fill="#333"'
    yield f"<text {place}>{escape(plot.up)}</text>"


def _places(lines: Sequence[Line]) -> Iterator[tuple[int, int]]:
    """Where the legend has each line: its row, and how far from the left."""
    row, x = 0, _LEFT
    for line in lines:
        width = 27 + 7 * len(line.name) + 18
        if x + width > _WIDTH and x > _LEFT:
            row, x = row + 1, _LEFT
        yield row, x
        x += width


def _look(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="1.8"{dashes}'
