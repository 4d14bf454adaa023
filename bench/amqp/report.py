"""The AMQP section: medians, each repeat's pair with the direct connection, goals, and how it was all measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.amqp.cases import BODY_BYTES, CASES, DELIVERIES, MAX_LENGTH, PREFETCH, WINDOW, Case
from bench.amqp.run import Results, Sample
from bench.page import Conditions, Goal, cell, goal_lines, machine, table

BASELINE: Final = "direct"
HAPROXY: Final = "haproxy"
#: The direct connection again, with a trace context in each message, as the sidecar puts one in.
TRACED: Final = "traced"
OURS: Final = "sidecar"
TRACING: Final = (OURS, "interpreted")


def goals(results: Results) -> list[Goal]:
    """The goals of this project, as far as the run holds both sides."""
    found = []
    for case in CASES:
        if pair := pairs(results, OURS, HAPROXY, case):
            cost = median(_cost(*each) for each in pair)
            if not case.rate:
                found.append(Goal(f"CPU of {case.title}, of HAProxy's TCP relay", 1.2, cost))
        pair = pairs(results, OURS, BASELINE, case)
        if not pair or case.consuming:
            continue
        if case.rate:
            for text, limit, read in (("p50", 0.3, _p50), ("p99", 2.0, _p99)):
                added = median(read(ours) - read(base) for ours, base in pair) / 1000
                found.append(Goal(f"milliseconds added to {text} of {case.title}", limit, added))
            continue
        for base_name, whose in ((BASELINE, "the direct connection's"), (TRACED, "that with a trace in each message")):
            if pair := pairs(results, OURS, base_name, case):
                ratio = median(_ratio(*each) for each in pair)
                found.append(Goal(f"{case.title}, of {whose}", 0.97, ratio, at_least=True))
    return found


def pairs(results: Results, name: str, base: str, case: Case) -> list[tuple[Sample, Sample]]:
    """(its sample, the base's) of each repeat; empty when either was not measured, or they are not to be compared."""
    if name in (base, BASELINE) or (base == TRACED and name not in TRACING):
        return []
    ours, theirs = (results.samples.get((each, case.name), []) for each in (name, base))
    return list(zip(ours, theirs, strict=False))


def tables(results: Results, names: Sequence[str]) -> str:
    """All figures, as Markdown tables."""
    parts = []
    for case in CASES:
        rows = []
        for name in names:
            samples = results.samples.get((name, case.name))
            if samples is None:
                continue
            direct, traced = (pairs(results, name, base, case) for base in (BASELINE, TRACED))
            row = [name, "" if name in (BASELINE, TRACED) else cell(samples, lambda s: s.cpu, digits=1)]
            relayed = [] if name == TRACED else pairs(results, name, HAPROXY, case)
            row.append(_each([_cost(*each) for each in relayed], 2))
            if case.rate:
                row += [
                    cell(samples, _p50),
                    _each([ours.p50 - base.p50 for ours, base in direct], 0),
                    cell(samples, _p99),
                    _each([ours.p99 - base.p99 for ours, base in direct], 0),
                ]
            else:
                row += [
                    cell(samples, lambda s: s.rate),
                    _each([_ratio(*each) for each in direct], 2),
                    *([] if case.consuming else [_each([_ratio(*each) for each in traced], 2)]),
                    cell(samples, lambda s: s.broker_cpu, digits=1),
                    cell(samples, lambda s: s.load_cpu, digits=1),
                ]
            rows.append(row)
        head = ["", "CPU µs/message", "of HAProxy's"]
        if case.rate:
            head += ["p50 µs", "added to direct's", "p99 µs", "added to direct's"]
        else:
            head += ["messages/s", "of direct's", *([] if case.consuming else ["of traced's"])]
            head += ["broker's CPU µs/message", "load's CPU µs/message"]
        parts.append(f"#### {case.title[0].upper()}{case.title[1:]}\n\n{table(head, rows)}")
    rows = [
        [name, cell(memory, lambda m: m.rss / 2**20, digits=1), cell(memory, lambda m: m.pss / 2**20, digits=1)]
        for name in names
        if (memory := results.memory.get(name))
    ]
    if rows:
        parts.append(f"#### Memory\n\n{table(['', 'resident MiB after load', 'of which its own share (PSS)'], rows)}")
    return "\n\n".join(parts)


def section(results: Results, names: Sequence[str], conditions: Conditions) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    reached = goal_lines(goals(results))
    programs = {"rabbitmq": ["sh", "-c", "ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*"]}
    if "haproxy" in names:
        programs["haproxy"] = ["haproxy", "-v"]
    return f"""Measured by `{conditions.command}`. Each figure is the median of {conditions.repeats}
repeats of {conditions.seconds} s, with the lowest and highest in parentheses. Comparisons with the direct connection
and with HAProxy are made within each repeat (throughput and CPU: within each round of turns, and the median of these):
their median, and in brackets those of all repeats, in the order of time. Other processes of this machine had
{_others(results):.0%} of a core meanwhile.

{("### Goals" + chr(10) + chr(10) + reached + chr(10)) if reached else ""}
### Figures

{tables(results, names)}

### Machine and programs

{machine(conditions, programs)}

### How it is measured

- A real RabbitMQ, started for each repeat with an empty folder, has core {conditions.cores[1]} to itself. The load
  and what is measured share core {conditions.cores[0]}: at full speed the broker, which needs several times the CPU of
  either, is the limit, and what a proxy costs is not taken from it.
- The load generator is one process on plain sockets that sends prebuilt frames and counts the confirms, each tag
  exactly once; an error, a refusal or a connection that breaks makes the run fail. At full speed a connection has
  {WINDOW} publishes waiting for their confirms at any time and sends more as these come, until a second is over; what
  counts ends with the last confirm.
- All connections stand, one contender at a time is under load. Within a repeat the contenders take turns of a second,
  in another order each round, so that drift of the machine and of the broker hits all of them.
- Messages: transient, {BODY_BYTES} bytes, with content type and two headers, through a topic exchange into a classic
  queue for each connection that keeps the newest {MAX_LENGTH}.
- At a rate, messages are due at fixed times, and latency counts from when one was due, not from when it was sent.
- Deliveries: {DELIVERIES} messages that lie in the queue already, prefetch {PREFETCH}, each acknowledged by itself;
  until the broker has answered the cancelling of the consumer and so has taken all acks.
- **CPU µs/message** is user and system time from `/proc/PID/stat`, all threads together, divided by the messages.
- Duties of `sidecar` and `interpreted`: a publish limit of 1 000 000/s that never bites, a `traceparent` in each
  message that brings none and bounded prefetch (both checked in each repeat), counters by exchange; no trace is
  sampled. Those of a TCP proxy besides, as HAProxy has them: connect retries, breaker, connection rate limit. HAProxy
  sees bytes only.

### What to keep in mind

- At full speed the broker is the limit: ratios near 1 say that the proxy keeps up, not that it costs nothing. CPU per
  message is what it costs.
- A message with a trace context costs the broker more, whoever put it in (`broker's CPU`, `traced` beside `direct`);
  where the broker is the limit, that is throughput. `traced` is the direct connection with a context in each message
  from the beginning: against it, only the relaying counts.
- A proxy changes the portions in which bytes reach the broker, and the broker's own cost per message with them; so a
  ratio may be above 1.
- At a rate every message wakes each process on its way, which costs more than the work itself; at full speed one
  wake-up is for many messages.
- The added latency holds the waiting for the one core that proxy and load share.
"""


def _others(results: Results) -> float:
    return median(sample.others for samples in results.samples.values() for sample in samples)


def _ratio(ours: Sample, base: Sample) -> float:
    """Throughput against direct's, turn by turn: a turn that something else disturbed then spoils one of many."""
    return median(rate / other for rate, other in zip(ours.rates, base.rates, strict=True))


def _cost(ours: Sample, base: Sample) -> float:
    """CPU per message, likewise."""
    return median(cpu / other for cpu, other in zip(ours.cpus, base.cpus, strict=True))


def _p50(sample: Sample) -> float:
    return sample.p50


def _p99(sample: Sample) -> float:
    return sample.p99


def _each(values: Sequence[float], digits: int) -> str:
    """Median and all values."""
    if not values:
        return ""
    return f"{median(values):.{digits}f} [{' '.join(f'{value:.{digits}f}' for value in values)}]"
