"""Prometheus' two text formats, written from families.

prometheus_client's writer makes objects and sorts labels for every sample, which took some 60 ms for a sidecar with a
thousand endpoints; the event loop stands still meanwhile. Here a family is one format string. Sources: Prometheus'
"Exposition formats", text format 0.0.4; OpenMetrics 1.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

from sidecar.core.metrics import Family
from sidecar.core.stats import Exemplar, Histogram

CLASSIC: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

#: Numbers that Python writes in another way.
_ODD: Final = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
#: A weight that says "never" (RFC 9110, section 12.4.2).
_REFUSED: Final = re.compile(r"q\s*=\s*0(\.0*)?")


class Page:
    """A page in the making. Exemplars are in OpenMetrics only; what it calls a counter has the same samples."""

    def __init__(self, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._parts: list[str] = []
        self._escape = _Escaped().__getitem__
        #: Bounds of histograms → how they begin a sample's end, ``le`` being the last label.
        self._bounds: dict[tuple[float, ...], list[str]] = {}

    def add(self, family: Family) -> None:
        """Write a family."""
        counts = family.kind == "counter"
        name = family.name.removesuffix("_total") if counts else family.name
        self._begin(name, family.kind, family.help)
        escape = self._escape
        line = _line(f"{name}_total" if counts else name, family.labels)
        self._parts += [line % (*map(escape, labels), _number(value)) for labels, value in family.samples]
        for labels, it in family.histograms:
            self._add_histogram(name, family.labels, list(map(escape, labels)), it)

    def finish(self) -> bytes:
        """Return the page."""
        if self._openmetrics:
            self._parts.append("# EOF\n")
        return "".join(self._parts).encode()

    def _begin(self, name: str, kind: str, help: str) -> None:
        text = help.replace("\\", r"\\").replace("\n", r"\n")
        if self._openmetrics:
            text = text.replace('"', r"\"")
        elif kind == "counter":
            name += "_total"
        self._parts.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")

    def _add_histogram(self, name: str, names: Sequence[str], labels: Sequence[str], it: Histogram) -> None:
        common = ",".join(f'{label}="{value}"' for label, value in zip(names, labels, strict=True))
        begin = f"{name}_bucket{{{common}{',' if common else ''}le="
        exemplars = it.exemplars if self._openmetrics else None
        seen = 0
        ends = self._ends(it.bounds)
        for at, n in enumerate(it.counts):
            seen += n
            more = _exemplar(exemplars[at]) if exemplars and at in exemplars else ""
            self._parts.append(f"{begin}{ends[at]}{seen}.0{more}\n")
        among = f"{{{common}}}" if common else ""
        self._parts.append(f"{name}_count{among} {seen}.0\n{name}_sum{among} {_number(it.total)}\n")

    def _ends(self, bounds: tuple[float, ...]) -> list[str]:
        found = self._bounds.get(bounds)
        if found is None:
            found = self._bounds[bounds] = [f'"{_number(bound)}"}} ' for bound in (*bounds, inf)]
        return found


class _Escaped(dict[str, str]):
    """Values of labels, as they are written: the same ones come again and again."""

    def __missing__(self, value: str) -> str:
        found = self[value] = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        return found


def wants_openmetrics(accept: str) -> bool:
    """Whether a request with this Accept field is to be answered in OpenMetrics: named, and not with a weight of 0."""
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media == "application/openmetrics-text":
            return not any(_REFUSED.fullmatch(it) for it in parameters)
    return False


def _line(name: str, labels: Iterable[str]) -> str:
    """The format of a family's samples: its labels' values and the sample's."""
    among = ",".join(f'{label}="%s"' for label in labels)
    return f"{name}{{{among}}} %s\n" if among else f"{name} %s\n"


def _number(value: float) -> str:
    text = repr(float(value))
    return _ODD.get(text, text)


def _exemplar(it: Exemplar) -> str:
    trace_id, value, at = it
    return f' # {{trace_id="{trace_id}"}} {_number(value)} {at:.3f}'
