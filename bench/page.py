"""docs/benchmarks.md: one section for each part of the benchmark, which each part can write anew by itself."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from sidecar.core.extras import DISTRIBUTION

T = TypeVar("T")

HTTP: Final = "HTTP and TCP"
AMQP: Final = "AMQP"
SPOOL: Final = "The spool"
TELEMETRY: Final = "Telemetry"
EARLY: Final = "Early answers"
IDLE: Final = "Memory at rest"
HEADS: Final = "The head scanner"
#: Written by hand: :mod:`bench.hotpath` under valgrind.
INSTRUCTIONS: Final = "Instructions"
#: Written by :mod:`bench.history`, a line at a time.
HISTORY: Final = "History"
#: Their tables are copied from what :mod:`bench.rollout`, :mod:`bench.llm` and :mod:`bench.picks` print.
CANARIES: Final = "Canaries"
MODELS: Final = "Language models"
BALANCERS: Final = "Balancers"
#: Titles of the sections, in their order.
SECTIONS: Final = (HTTP, AMQP, SPOOL, TELEMETRY, EARLY, IDLE, HEADS, INSTRUCTIONS, HISTORY, CANARIES, MODELS, BALANCERS)

_HEAD: Final = """# Benchmarks

Written by `make bench`, `make bench-history`, and by `python -m bench.early --write`, `bench.idle` and `bench.scanner`;
do not edit, run them again. Each section says when and how it was measured.
"""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a reader needs to judge the figures or to measure again."""

    command: str
    date: str
    load_average: float
    repeats: int
    seconds: int
    cores: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that a release has to reach, and what it reached; ``at_least``: more is better, else less is."""

    text: str
    limit: float
    value: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def goal_lines(goals: Sequence[Goal]) -> str:
    """A line each; empty when there are none."""
    return "\n".join(
        f"- {goal.text}: **{goal.value:.2f}** (goal: at {'least' if goal.at_least else 'most'} {goal.limit:g}) "
        + ("— met" if goal.met else "— **missed**")
        for goal in goals
    )


def page(old: str, sections: Mapping[str, str]) -> str:
    """The whole page: these sections, and of the old page those that were not measured now."""
    found = {**split(old), **sections}
    return "\n".join([_HEAD, *(f"## {title}\n\n{found[title].strip()}\n" for title in SECTIONS if title in found)])


def split(text: str) -> dict[str, str]:
    """Title → text of the sections of a page that :func:`page` wrote."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown that can be read as it stands."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def cell(samples: Sequence[T], read: Callable[[T], float], digits: int = 0) -> str:
    """Median, lowest and highest."""
    values = [read(sample) for sample in samples]
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def middle(samples: Sequence[T], read: Callable[[T], float]) -> float:
    """The median of what is read of the samples."""
    return median(read(sample) for sample in samples)


def ratio(samples: Sequence[T], base: Sequence[T], read: Callable[[T], float]) -> float:
    """What is read of the samples against those of the base that were taken right before or after them: the median, so
    that what the machine did meanwhile spoils some of many. 0: there is nothing to compare with."""
    return median(
        [read(ours) / it if (it := read(theirs)) else 0.0 for ours, theirs in zip(samples, base, strict=True)]
    )


def machine(conditions: Conditions, programs: Mapping[str, Sequence[str]]) -> str:
    """Rows about this machine and the versions that ``programs`` (name → command) tell of themselves."""
    return facts(conditions.date, conditions.load_average, programs)


def facts(date: str, load_average: float, programs: Mapping[str, Sequence[str]]) -> str:
    """The same, for what has no other conditions."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    rows = {
        "date": date,
        "CPU": model[1] if model else platform.machine(),
        "cores": str(cpuinfo.count("processor\t:")),
        "kernel": platform.release(),
        "load average before": f"{load_average:.2f}",
        "sidecar": f"{_package(DISTRIBUTION)}, {_python()}, uvloop {_package('uvloop')}",
    }
    rows |= {name: _version(command) for name, command in programs.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _python() -> str:
    """The interpreter, and whether it is the one that the system's packages brought. Those are optimized by a profile;
    what a version manager has compiled is mostly not, and takes some percent more CPU."""
    whose = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    return f"Python {platform.python_version()} ({whose})"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _version(command: Sequence[str]) -> str:
    """The first thing like a version in what the program says about itself."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "not here"
    found = re.search(r"\d+\.\d+\.\d+[-+~.\w]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
