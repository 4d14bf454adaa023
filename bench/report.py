"""The HTTP and TCP section: medians with their span, ratios to Envoy, goals, and how it was all measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

from bench.contenders import envoy_binary
from bench.load import CASES, Sample
from bench.page import Conditions, Goal, cell, goal_lines, machine, middle, table
from bench.run import Results

T = TypeVar("T")

BASELINE = "envoy"
OURS = "sidecar"


def goals(results: Results) -> list[Goal]:
    """The goals of this project, as far as the run holds both sides; for all of them less is better."""

    def ratio(case: str, read: Callable[[Sample], float]) -> float:
        ours, theirs = (results.samples[name, case] for name in (OURS, BASELINE))
        return middle(ours, read) / middle(theirs, read)

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
repeats of {conditions.seconds} s, with the lowest and highest in parentheses and, after ×, its ratio to Envoy's.

{("### Goals" + chr(10) + chr(10) + reached + chr(10)) if reached else ""}
### Figures

{tables(results, names)}

### Machine and programs

{_machine(names, conditions)}

### How it is measured

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

### What to keep in mind

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
    text = cell(samples, read, digits)
    if base and (divisor := middle(base, read)):
        text += f" ×{middle(samples, read) / divisor:.2f}"
    return text


def _machine(names: Sequence[str], conditions: Conditions) -> str:
    programs: dict[str, list[str]] = {"nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"]}
    if "haproxy" in names:
        programs["haproxy"] = ["haproxy", "-v"]
    if "envoy" in names:
        programs["envoy"] = [str(envoy_binary()), "--version"]
    return machine(conditions, programs)
