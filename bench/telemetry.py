"""The telemetry section: what spans, stories for ``sidecar why`` and access lines of 1 % of all requests add to the CPU
that a sidecar takes for one. Two of them, one with all of it and one with none, have the same load by turns."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.contenders import Contender, compiled_program
from bench.load import Case, Sample, measure, wait_ready
from bench.page import Conditions, Goal, cell, goal_lines, machine, table
from bench.processes import BenchError, Child
from bench.upstream import Upstream
from sidecar.demo.ports import free_ports

CASE: Final = Case("c32", "small body, 32 connections", 32)
#: Turns of both within a repeat; and seconds for which what a turn leaves behind (spans that wait) still counts.
TURNS: Final = 3
SETTLE: Final = 1.5
#: CPU per request with telemetry, of that without.
GOAL: Final = 1.08

#: Name → whether it is compiled, and whether it tells anything.
_KINDS: Final = {
    "bare": (True, False),
    "telemetry": (True, True),
    "bare-interpreted": (False, False),
    "telemetry-interpreted": (False, True),
}
CONTENDERS: Final = tuple(_KINDS)
#: Measured when they are named.
SPARE: Final = CONTENDERS[2:]
_PAIRS: Final = (CONTENDERS[:2], CONTENDERS[2:])


class Told(NamedTuple):
    """What a sidecar has told in a repeat: spans that the collector took, and that it did not; stories; lines."""

    spans: int
    dropped: int
    stories: int
    lines: int


@dataclass(slots=True)
class Results:
    """Samples by contender, in the order of time; and what each has told, by repeat."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    told: dict[str, list[Told]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        return sum(sample.errors for samples in self.samples.values() for sample in samples)


def configuration(full: bool, upstream: int, http: int, admin: int, collector: int) -> dict[str, Any]:
    """A sidecar's file: with all telemetry of 1 %, or with none."""
    telemetry: dict[str, Any] = {
        "tracing": {"sample": "1%", "otlp": f"http://127.0.0.1:{collector}"},
        "why": {"records": 2000, "sample": "1%"},
        "log": {"access": {"sample": "1%", "slow": "500ms"}},
    }
    none = {"tracing": {"sample": 0, "always": []}, "why": {"records": 0}, "log": {"access": "off"}}
    return {
        "service": {"name": "bench"},
        "registry": "none",
        "upstreams": {"http": {"bind": f"127.0.0.1:{http}", "endpoints": [f"127.0.0.1:{upstream}"]}},
        "admin": {"bind": f"127.0.0.1:{admin}"},
        **(telemetry if full else none),
    }


@dataclass(frozen=True, slots=True)
class _Running:
    contender: Contender
    admin: int
    log: Path

    def told(self) -> Told:
        page = _get(f"http://127.0.0.1:{self.admin}/metrics")
        sent, dropped = (
            int(sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)))
            for name in ("sidecar_spans_sent_total", "sidecar_spans_dropped_total")
        )
        stories = json.loads(_get(f"http://127.0.0.1:{self.admin}/why?limit=1"))["remembered"]
        return Told(sent, dropped, stories, self.log.read_text().count('"logger":"sidecar.access"'))


def run(
    names: Sequence[str], cores: tuple[int, int], repeats: int, seconds: int, say: Callable[[str], None]
) -> Results:
    """Measure these by turns, each ``repeats`` × :data:`TURNS` times, ``seconds`` each. A repeat starts fresh
    processes; in every other turn the order is the reverse."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as temporary:
        for repeat in range(repeats):
            folder = Path(temporary, str(repeat))
            folder.mkdir()
            with ExitStack() as stack:
                upstream = stack.enter_context(Upstream(folder / "nginx", cores[1]))
                collector = _collector(stack, folder, cores[1])
                running = [_start(stack, name, upstream.port, collector, folder, cores[0]) for name in names]
                for it in running:
                    measure(CASE, it.contender, 1, cores[1], SETTLE)  # warm-up, not counted
                for turn in range(TURNS):
                    for it in running if (repeat + turn) % 2 == 0 else reversed(running):
                        sample = measure(CASE, it.contender, seconds, cores[1], SETTLE)
                        results.samples.setdefault(it.contender.name, []).append(sample)
                        say(_progress(f"{repeat + 1}/{repeats}, turn {turn + 1}", it.contender.name, sample))
                for it in running:
                    results.told.setdefault(it.contender.name, []).append(_checked(it.contender.name, it.told()))
    return results


def _collector(stack: ExitStack, folder: Path, core: int) -> int:
    """A collector that takes everything; its port."""
    log = folder / "collector.log"
    command = [sys.executable, "-u", "-m", "bench.lag", "--collector"]
    collector = stack.enter_context(Child("collector", command, core, log))
    deadline = time.monotonic() + 20
    while not log.read_text().endswith("\n"):
        collector.check()
        if time.monotonic() > deadline:
            raise BenchError("the collector did not start within 20 s")
        time.sleep(0.02)
    return int(log.read_text())


def _start(stack: ExitStack, name: str, upstream: int, collector: int, folder: Path, core: int) -> _Running:
    compiled, full = _KINDS[name]
    http, admin = free_ports(2)
    path, log = folder / f"{name}.yaml", folder / f"{name}.log"
    path.write_text(json.dumps(configuration(full, upstream, http, admin, collector), indent=2))  # JSON is YAML
    command: list[str | Path] = [compiled_program()] if compiled else [sys.executable, "-m", "sidecar"]
    contender = Contender(name, http, 0, stack.enter_context(Child(name, [*command, "run", path], core, log)))
    wait_ready(contender, time.monotonic())
    return _Running(contender, admin, log)


def _checked(name: str, told: Told) -> Told:
    """Raises :class:`BenchError` when it has not told what it should have."""
    _, full = _KINDS[name]
    if full != bool(told.spans) or full != bool(told.stories) or full != bool(told.lines) or told.dropped:
        raise BenchError(f"{name} has not told what it should have: {told}")
    return told


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def _progress(where: str, name: str, sample: Sample) -> str:
    errors = f"  {sample.errors} ERRORS" if sample.errors else ""
    return f"{where}  {name:<21} {sample.cpu:8.1f} µs CPU {sample.rate:8.0f} req/s{errors}"


def ratios(results: Results, pair: Sequence[str]) -> list[float]:
    """CPU per request with telemetry, of that without, of each turn; empty when one of the two was not measured."""
    bare, full = (results.samples.get(name, []) for name in pair)
    return [ours.cpu / base.cpu for base, ours in zip(bare, full, strict=False)]


def goals(results: Results) -> list[Goal]:
    """The goal, of the build that goes into the image where that was measured."""
    found = [ratios(results, pair) for pair in _PAIRS]
    each = found[0] or found[1]
    return [Goal("CPU per request with telemetry, of that without", GOAL, median(each))] if each else []


def tables(results: Results, names: Sequence[str]) -> str:
    """All figures, as a Markdown table."""
    beside: Mapping[str, list[float]] = {pair[1]: ratios(results, pair) for pair in _PAIRS}
    rows = []
    for name in names:
        samples = results.samples[name]
        each = beside.get(name, [])
        told = results.told.get(name, [])
        rows.append(
            [
                name,
                cell(samples, lambda s: s.cpu, digits=1),
                f"{median(each):.3f} [{', '.join(f'{ratio:.2f}' for ratio in each)}]" if each else "",
                cell(samples, lambda s: s.rate),
                str(sum(it.spans for it in told)),
            ]
        )
    return table(["", "CPU µs/request", "of that without", "requests/s", "spans"], rows)


def section(results: Results, names: Sequence[str], conditions: Conditions) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    return f"""Measured by `{conditions.command}`. Each figure is the median of {conditions.repeats * TURNS}
turns of {conditions.seconds} s, with the lowest and highest in parentheses. CPU time with telemetry is
compared with that without turn by turn: the median of these ratios, and in brackets all of them, in the order of time.

### Goals

{goal_lines(goals(results))}

### Figures

{tables(results, names)}

### Machine and programs

{machine(conditions, {"nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"]})}

### How it is measured

- `bare` records nothing: no trace is sampled, `why.records: 0`, `log.access: off`. `telemetry` has a collector,
  `tracing.sample: 1%`, `why: {{records: 2000, sample: 1%}}` and `log.access: {{sample: 1%, slow: 500ms}}`. Metrics are
  counted by both. Each repeat is checked: of the one, spans came to the collector, stories and lines were
  written, and nothing was dropped; of the other there are none.
- Both are the build that goes into the image. `--only bare-interpreted,telemetry-interpreted` measures the source as
  it is.
- Both run on core {conditions.cores[0]}, one of them under load at a time: {CASE.title}. nginx, `wrk -t1` and
  the collector share core {conditions.cores[1]}. A repeat starts fresh processes and has {TURNS} turns of each, in
  alternating order, after a second that does not count.
- **CPU µs/request** is the process's user and system time from `/proc/PID/stat` from the beginning of the load to
  {SETTLE:g} s after its end, all threads together (those that write lines and send spans, too), divided by the
  requests that `wrk` counted.
- Any failed connection or answer other than 2xx makes the run fail.
"""
