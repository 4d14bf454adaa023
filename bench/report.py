"""Results as a page of Markdown: medians with their span, ratios to Envoy, goals, and how it was all measured."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TypeVar

from bench.contenders import envoy_binary
from bench.load import CASES, Sample
from bench.run import Results

T = TypeVar("T")

BASELINE = "envoy"
OURS = "sidecar"


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
    """One thing that a release has to reach, and what it reached."""

    text: str
    limit: float
    value: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def goals(results: Results) -> list[Goal]:
    """The goals of this project, as far as the run holds both sides; for all of them less is better."""

    def ratio(case: str, read: Callable[[Sample], float]) -> float:
        ours, theirs = (results.samples[name, case] for name in (OURS, BASELINE))
        return _median(ours, read) / _median(theirs, read)

    found = []
    if {OURS, BASELINE} <= results.memory.keys():
        rss = {name: median(memory.rss for memory in results.memory[name]) for name in (OURS, BASELINE)}
        found = [
            Goal("CPU per small request at 32 connections, of Envoy's", 0.6, ratio("c32", lambda s: s.cpu)),
            Goal("p50 at one connection, of Envoy's", 0.7, ratio("c1", lambda s: s.p50)),
            Goal("resident memory after load, of Envoy's", 0.75, rss[OURS] / rss[BASELINE]),
        ]
    if OURS in results.startup:
        found.append(
            Goal("seconds from start to the first request passed on, slowest start", 1.0, max(results.startup[OURS]))
        )
    return found


def tables(results: Results, names: Sequence[str]) -> str:
    """All figures, as Markdown tables."""
    parts = []
    for case in CASES:
        rows = []
        for name in names:
            samples = results.samples[name, case.name]
            base = results.samples.get((BASELINE, case.name)) if name != "direct" else None
            rows.append(
                [
                    name,
                    "" if name == "direct" else _cell(samples, base, lambda s: s.cpu, digits=1),
                    _cell(samples, base, lambda s: s.rate),
                    _cell(samples, base, lambda s: s.p50),
                    _cell(samples, base, lambda s: s.p99),
                ]
            )
        head = ["", "CPU µs/request", "requests/s", "p50 µs", "p99 µs"]
        parts.append(f"### {case.title[0].upper()}{case.title[1:]}\n\n{_table(head, rows)}")
    rows = []
    for name in (name for name in names if name in results.memory):
        memory, base_memory = results.memory[name], results.memory.get(BASELINE)
        rows.append(
            [
                name,
                _cell(memory, base_memory, lambda m: m.rss / 2**20, digits=1),
                _cell(memory, base_memory, lambda m: m.pss / 2**20, digits=1),
                _cell(results.startup[name], results.startup.get(BASELINE), lambda s: s * 1000),
            ]
        )
    if rows:
        head = ["", "resident MiB after load", "of which its own share (PSS)", "start to first request, ms"]
        parts.append(f"### Memory and start\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def goal_lines(results: Results) -> str:
    """The goals, a line each; empty when the run cannot tell."""
    return "\n".join(
        f"- {goal.text}: **{goal.value:.2f}** (goal: at most {goal.limit:g}) {'— met' if goal.met else '— **missed**'}"
        for goal in goals(results)
    )


def page(results: Results, names: Sequence[str], conditions: Conditions) -> str:
    """The whole of docs/benchmarks.md."""
    reached = goal_lines(results)
    return f"""# Benchmarks

Written by `{conditions.command}`; do not edit, run it again. Each figure is the median of {conditions.repeats}
repeats of {conditions.seconds} s, with the lowest and highest in parentheses and, after ×, its ratio to Envoy's.

{("## Goals" + chr(10) + chr(10) + reached + chr(10)) if reached else ""}
## Figures

{tables(results, names)}

## Machine and programs

| | |
|---|---|
{_machine(names, conditions)}

## How it is measured

- Every proxy has core {conditions.cores[0]} to itself, with one worker thread. The upstream (nginx, one worker)
  and the load generator (`wrk -t1`) share core {conditions.cores[1]}. All of it over loopback, with keep-alive, on
  ports that the system chose.
- All proxies run at once, one of them under load. A repeat starts fresh processes and takes the proxies in another
  order; every proxy gets one second of load before it counts.
- **CPU µs/request** is the process's user and system time from `/proc/PID/stat` around the load, all threads
  together, divided by the requests that `wrk` counted. It is the figure to compare: what a proxy costs beside the app.
- Same duties: retry policy, circuit breaker (Envoy: outlier detection, HAProxy: layer 7 observation that marks the
  server down), a local rate limit of 1 000 000/s that never bites, a request id, a `traceparent` for requests that
  bring none (checked before each repeat: the upstream must have been handed both), counters per status. Access logs
  are off or have nothing to say, no trace is sampled. TCP mode: connect retries, breaker, connection rate limit.
- `sidecar` is the build that goes into the image, with its hot path compiled by mypyc (`make compiled`); `interpreted`
  is the same source run by CPython, as `pip install` and `make demo` have it.
- Memory is read after all the load of a repeat, 256 connections and large bodies included.
- Any failed connection or answer other than 2xx in any repeat makes the run fail.

## What to keep in mind

- Where one core of load and upstream is the limit, requests/s and p99 say more about that core than about the proxy.
  `direct` shows that limit.
- p50 and p99 at 32 and 256 connections are mostly queueing: a closed loop keeps that many requests in flight, so they
  follow from the throughput. At one connection p50 is what the proxy adds, and most of that is waking sleeping cores,
  four times for each request; so HAProxy, which needs a fraction of the instructions, is hardly quicker there.
- Envoy and HAProxy use more cores by themselves; a sidecar process uses one.
- HAProxy is the leaner proxy by far. It is here to show what is possible, and Envoy because it is the usual sidecar.
- Small differences are drift: look at the span in parentheses before believing one.
"""


def _cell(samples: Sequence[T], base: Sequence[T] | None, read: Callable[[T], float], digits: int = 0) -> str:
    values = [read(sample) for sample in samples]
    text = f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
    if base and (divisor := _median(base, read)):
        text += f" ×{median(values) / divisor:.2f}"
    return text


def _median(samples: Sequence[T], read: Callable[[T], float]) -> float:
    return median(read(sample) for sample in samples)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _machine(names: Sequence[str], conditions: Conditions) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    facts = {
        "date": conditions.date,
        "CPU": model[1] if model else platform.machine(),
        "cores": str(cpuinfo.count("processor\t:")),
        "kernel": platform.release(),
        "load average before": f"{conditions.load_average:.2f}",
        "sidecar": f"{_package('sidecar')}, Python {platform.python_version()}, uvloop {_package('uvloop')}",
    }
    programs: dict[str, list[str]] = {"nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"]}
    if "haproxy" in names:
        programs["haproxy"] = ["haproxy", "-v"]
    if "envoy" in names:
        programs["envoy"] = [str(envoy_binary()), "--version"]
    facts |= {name: _version(command) for name, command in programs.items()}
    return "\n".join(f"| {name} | {value} |" for name, value in facts.items())


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
