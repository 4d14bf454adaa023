"""The spool's section: medians, goals, and how it was all measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.amqp.cases import MAX_LENGTH, WINDOW
from bench.page import Conditions, Goal, cell, goal_lines, machine, middle, table
from bench.spool.run import BODY_BYTES, CONNECTIONS, PACED_SECONDS, RATE, Results, Sample

_MIB: Final = 2**20


def goals(results: Results) -> list[Goal]:
    """The goals of this project, for each contender that was measured."""
    found = []
    for name, samples in results.samples.items():
        size = middle(samples, lambda s: s.size / 2**30)
        found += [
            Goal(f"{name}: messages of 1 KiB a second into the spool", 20_000, middle(samples, _taken), at_least=True),
            Goal(f"{name}: and out of it", 10_000, middle(samples, _sent), at_least=True),
            Goal(
                f"{name}: milliseconds to p99 of the acks, at {RATE} a second",
                20,
                middle(samples, lambda s: s.p99 / 1000),
            ),
            Goal(f"{name}: seconds until {size:.1f} GiB are back in service", 5, middle(samples, _reopened)),
            Goal(f"{name}: MiB resident at the most", 60, middle(samples, _peak)),
        ]
    return found


def tables(results: Results, names: Sequence[str]) -> str:
    """All figures, as Markdown tables."""
    found = [(name, samples) for name in names if (samples := results.samples.get(name))]
    speed = table(
        ["", "in, messages/s", "CPU µs/message", "out, messages/s", "CPU µs/message"],
        [
            [
                name,
                cell(samples, _taken),
                cell(samples, lambda s: s.taking_cpu, digits=1),
                cell(samples, _sent),
                cell(samples, lambda s: s.sending_cpu, digits=1),
            ]
            for name, samples in found
        ],
    )
    rest = table(
        ["", f"ack p50 µs at {RATE}/s", "p99 µs", "messages spooled", "MiB", "back after s", "peak MiB resident"],
        [
            [
                name,
                cell(samples, lambda s: s.p50),
                cell(samples, lambda s: s.p99),
                cell(samples, lambda s: s.messages),
                cell(samples, lambda s: s.size / _MIB),
                cell(samples, _reopened, digits=2),
                cell(samples, _peak, digits=1),
            ]
            for name, samples in found
        ],
    )
    return f"{speed}\n\n{rest}"


def section(results: Results, names: Sequence[str], conditions: Conditions) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    programs = {"rabbitmq": ["sh", "-c", "ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*"]}
    return f"""Measured by `{conditions.command}`. Each figure is the median of {conditions.repeats} passes, with the
lowest and highest in parentheses.

### Goals

{goal_lines(goals(results))}

### Figures

{tables(results, names)}

### Machine and programs

{machine(conditions, programs)}

### How it is measured

- A pass, in an empty folder on this machine's disk: without a broker, {RATE} publishes a second for {PACED_SECONDS} s
  over one connection, then as many as are acknowledged over {CONNECTIONS} connections for {conditions.seconds} s;
  `kill -9` and a new start; then the configuration leads to a real RabbitMQ (`SIGHUP`), until the spool is empty.
- Everything acknowledged must be in the spool after the kill, and nothing may become a dead letter, or the run fails.
- Messages: {BODY_BYTES} bytes, with content type and two headers, in confirm mode, {WINDOW} of a connection
  unconfirmed; all to one topic exchange, so they are one key, which leaves in order. At the broker they come into a
  classic queue that keeps the newest {MAX_LENGTH}.
- An ack counts from when its publish was due, not from when it was sent; each says that the message is on the disk,
  with `fsync` (`ack: spool`).
- "Back after" is from the start of the process until its admin API tells of all these messages. The peak is `VmHWM` of
  both processes, so of the whole pass.
- The sidecar has core {conditions.cores[0]} (its spool's thread, too), the load and then the broker core
  {conditions.cores[1]}.
"""


def _taken(sample: Sample) -> float:
    return sample.taken


def _sent(sample: Sample) -> float:
    return sample.sent


def _reopened(sample: Sample) -> float:
    return sample.reopened


def _peak(sample: Sample) -> float:
    return sample.peak / _MIB
