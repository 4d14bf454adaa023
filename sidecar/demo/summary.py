"""The text that stays when the show is over."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

from sidecar.demo.story import PHASES, Story
from sidecar.demo.traffic import Tally, quantile

_NEXT = """\
What to try next ("sidecar" is {command})
  sidecar demo --serve        this mesh again, to play with: it prints the address
                              of each admin API, and how to use it, such as:
  sidecar status --admin URL  what a sidecar is doing, as a table
  curl URL/upstreams          the same as JSON; URL/metrics is for Prometheus;
                              open URL itself in a browser for the rest
  sidecar check FILE          every mistake in a configuration at once
  README.md                   how to put a sidecar beside your own service\
"""


def summary(story: Story, memory: dict[str, int]) -> str:
    """Return the whole text. ``memory``: resident bytes of each sidecar."""
    tasks, model = story.tasks.total(), story.model.total()
    seen_tasks, seen_model = story.observer.tasks, story.observer.model
    lines = ["Summary", "", _columns("", "requests", "errors", "p50", "p99")]
    phases = story.tasks.phases
    lines += [_row(f"  tasks: {phase}", phases[phase]) for phase in PHASES if phase in phases]
    lines.append(_row("  tasks: all", tasks))
    lines.append(_row("  model: all", model))
    lines += _aligned_errors(model)
    lines += [
        "  (p50: half of the answers came within that; p99: all but one in a hundred)",
        "",
        f"  retries            {_counts(seen_tasks.retries)} (clients noticed nothing of them)",
        f"  breaker of model   open for {seen_model.open_seconds:.1f} s in all",
        f"  in web's sidecar   tasks p50 {seen_tasks.p50_ms:.1f} ms, p99 {seen_tasks.p99_ms:.1f} ms",
        *textwrap.wrap(
            "sidecars' memory   " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in memory.items()),
            width=78,
            initial_indent="  ",
            subsequent_indent=" " * 21,
        ),
        "",
        "As told?",
    ]
    lines += [f"  {'yes' if check.good else 'NO '}  {check.text}" for check in story.checks]
    return "\n".join([*lines, "", _NEXT.format(command=command())])


def command() -> str:
    """Return the command by which this program can be called from here."""
    script = Path(sys.executable).with_name("sidecar")
    if not script.exists():
        return f"{_from_here(Path(sys.executable))} -m sidecar"
    found = shutil.which("sidecar")
    return "sidecar" if found and Path(found) == script else _from_here(script)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _row(name: str, tally: Tally) -> str:
    p50, p99 = (quantile(tally.latencies, q) * 1000 for q in (0.5, 0.99))
    return _columns(name, tally.requests, sum(tally.errors.values()), f"{p50:.1f} ms", f"{p99:.1f} ms")


def _aligned_errors(tally: Tally) -> list[str]:
    return [_columns(f"    of these {error}", "", count) for error, count in tally.errors.most_common()]


def _columns(name: str, *cells: object) -> str:
    """Return a line of the table, with the columns of all others."""
    return f"{name:<27}" + "".join(f"{cell!s:>{width}}" for cell, width in zip(cells, (9, 8, 10, 10), strict=False))


def _counts(counts: dict[str, int]) -> str:
    """Return a sum and its parts, as text."""
    if not counts:
        return "0"
    return f"{sum(counts.values())}: " + ", ".join(f"{reason} {count}" for reason, count in counts.items())
