"""The HTTP and TCP section: medians with their span, ratios to Envoy, goals, and how it was all measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, TypeVar

from bench.contenders import envoy_binary
from bench.load import CASES, Sample
from bench.page import Conditions, Goal, cell, goal_lines, machine, ratio, table
from bench.run import Results

T = TypeVar("T")

BASELINE = "envoy"
OURS = "sidecar"


def goals(results: Results) -> list[Goal]:
    """The goals of this project, as far as the run holds both sides; for all of them less is better."""
    reached = [
        Goal(text, limit, found)
        for text, limit, ours, case, theirs, read in _GOALS
        if (found := _ratio(results, case, ours, theirs, read)) is not None
    ]
    if OURS in results.memory:
        rss = median(memory.rss for memory in results.memory[OURS])
        reached.append(Goal("resident memory after load, MiB", 40, rss / 2**20))
    if OURS in results.startup:
        reached.append(
            Goal("seconds from start to the first request passed on, slowest start", 1.0, max(results.startup[OURS]))
        )
    return reached


def _cpu(sample: Sample) -> float:
    return sample.cpu


def _p50(sample: Sample) -> float:
    return sample.p50


def _p99(sample: Sample) -> float:
    return sample.p99


#: What is compared, the most that it may be, of whom, in which case, with whom, and what of a sample it is.
_GOALS: Final[tuple[tuple[str, float, str, str, str, Callable[[Sample], float]], ...]] = (
    ("CPU per small request at 32 connections, of HAProxy's", 1.0, OURS, "c32", "haproxy", _cpu),
    ("the same, of Envoy's", 0.4, OURS, "c32", BASELINE, _cpu),
    ("with nine headers, of HAProxy's", 1.0, OURS, "nine", "haproxy", _cpu),
    ("with nine headers, of Envoy's", 0.4, OURS, "nine", BASELINE, _cpu),
    ("interpreted, at 32 connections, of Envoy's", 0.7, "interpreted", "c32", BASELINE, _cpu),
    ("p50 at one connection, of HAProxy's", 1.05, OURS, "c1", "haproxy", _p50),
    ("p99 at 32 connections, of Envoy's", 1.0, OURS, "c32", BASELINE, _p99),
    ("CPU per body of 1 MiB, of HAProxy's", 0.54, OURS, "large", "haproxy", _cpu),
)


def _ratio(results: Results, case: str, ours: str, theirs: str, read: Callable[[Sample], float]) -> float | None:
    """Turn by turn; None when one of the two was not measured."""
    samples = [results.samples.get((name, case)) for name in (ours, theirs)]
    if not all(samples):
        return None
    mine, other = (it or [] for it in samples)
    return ratio(mine, other, read)


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
        parts.append(f"#### {case.title[0].upper()}{case.title[1:]}\n\n{table(head, rows)}")
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
        parts.append(f"#### Memory and start\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def section(results: Results, names: Sequence[str], conditions: Conditions) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    reached = goal_lines(goals(results))
    return f"""Measured by `{conditions.command}`. Each figure is the median of {conditions.repeats}
repeats of {conditions.seconds} s, in turns of a second, with the lowest and highest turn in parentheses and, after ×,
its ratio to Envoy's. Ratios, of the goals too, are those of turns next to each other, and the median of these.

{("### Goals" + chr(10) + chr(10) + reached + chr(10)) if reached else ""}
### Figures

{tables(results, names)}

### Machine and programs

{_machine(names, conditions)}

### How it is measured

- Every proxy has core {conditions.cores[0]} to itself, with one worker thread. The upstream (nginx, one worker)
  and the load generator (`wrk -t1`) share core {conditions.cores[1]}. All of it over loopback, on ports that the
  system chose; with keep-alive, but where clients make a connection for each request.
- All proxies run at once, one of them under load. A repeat starts fresh processes; within it they take turns of a
  second, in another order each round, so that drift of the machine hits all of them. Every proxy gets one second of
  load before it counts.
- **CPU µs/request** is the process's user and system time from `/proc/PID/stat` around the load, all threads
  together, divided by the requests that `wrk` counted. It is the figure to compare: what a proxy costs beside the app.
- Same duties: retry policy, circuit breaker (Envoy: outlier detection, HAProxy: layer 7 observation that marks the
  server down), a local rate limit of 1 000 000/s that never bites, a request id, a `traceparent` for requests that
  bring none (checked before each repeat: the upstream must have been handed both), counters per status. Access logs
  are off or have nothing to say, no trace is sampled. TCP mode: connect retries, breaker, connection rate limit.
- `sidecar` is the build that goes into the image, with its hot path compiled by mypyc (`make compiled`); `interpreted`
  is the same source run by CPython, as `pip install` and `make demo` have it.
- Memory is read after all the load of a repeat, 256 connections and large bodies included.
- Nine headers are what a browser sends (`bench/load.py`). With 1 % errors the app answers 500 by lot, which nobody
  tries again; clients that make a connection for each request are met by proxies that keep theirs to the app.
- Any failed connection or answer other than 2xx in any repeat makes the run fail, but for those errors.

### What to keep in mind

- Where one core of load and upstream is the limit, requests/s and p99 say more about that core than about the proxy.
  `direct` shows that limit.
- p50 and p99 at 32 and 256 connections are mostly queueing: a closed loop keeps that many requests in flight, so they
  follow from the throughput. At one connection p50 is what the proxy adds, and most of that is waking sleeping cores,
  four times for each request; so HAProxy, which needs a fraction of the instructions, is hardly quicker there.
- Envoy and HAProxy use more cores by themselves; a sidecar process uses one.
- HAProxy is here to show what a proxy in C takes, and Envoy because it is the usual sidecar.
- Small differences are drift: look at the span in parentheses before believing one.
"""


def _cell(samples: Sequence[T], base: Sequence[T] | None, read: Callable[[T], float], digits: int = 0) -> str:
    text = cell(samples, read, digits)
    if base and (found := ratio(samples, base, read)):
        text += f" ×{found:.2f}"
    return text


def _machine(names: Sequence[str], conditions: Conditions) -> str:
    programs: dict[str, list[str]] = {"nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"]}
    if "haproxy" in names:
        programs["haproxy"] = ["haproxy", "-v"]
    if "envoy" in names:
        programs["envoy"] = [str(envoy_binary()), "--version"]
    return machine(conditions, programs)
