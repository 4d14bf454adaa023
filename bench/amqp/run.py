"""The run: start a broker and everything in front of it, let the load generator take turns, stop everything."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final

from bench.amqp import wire
from bench.amqp.cases import CASES, PREFETCH, Case
from bench.amqp.client import Connection, wait_open
from bench.amqp.contenders import CONTENDERS
from bench.amqp.load import Order, Target, Turn
from bench.contenders import Contender
from bench.processes import ROOT, BenchError, Memory
from bench.rabbitmq import RabbitMQ

#: Length of a turn, seconds.
TURN_SECONDS: Final = 1.0
_START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """``rate``: messages per second; microseconds of CPU per message: ``cpu`` of the contender (0 for direct),
    ``broker_cpu`` and ``load_cpu``; ``p50`` and ``p99``: microseconds from due to confirmed (0 if there is no rate);
    ``others``: how many cores were busy with other things; ``rates`` and ``cpus``: messages per second, and CPU of the
    contender per message, of each turn."""

    rate: float
    cpu: float
    broker_cpu: float
    load_cpu: float
    p50: float
    p99: float
    others: float
    rates: tuple[float, ...]
    cpus: tuple[float, ...]


@dataclass(slots=True)
class Results:
    """Every sample of a run, by (contender, case), in the order of the repeats; memory after load by contender."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    memory: dict[str, list[Memory]] = field(default_factory=dict)


def run(
    names: Sequence[str], cores: tuple[int, int], repeats: int, seconds: int, say: Callable[[str], None]
) -> Results:
    """Measure the contenders in all cases, ``repeats`` times, ``seconds`` each; ``say`` is told of the progress.

    ``cores`` are that of the contenders and the load, and the broker's. Every repeat has a fresh broker and fresh
    processes; within it the contenders take turns of a second, in another order each time.
    """
    results = Results()
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as temporary:
        for repeat in range(repeats):
            folder = Path(temporary, str(repeat))
            with ExitStack() as stack:
                broker = stack.enter_context(RabbitMQ(folder / "rabbitmq", cores[1]))
                broker.wait_ready()
                wait_open(broker.port, time.monotonic() + _START_SECONDS).close()
                contenders = [_start(stack, name, broker.port, folder, cores[0]) for name in names]
                for number, case in enumerate(CASES):
                    # What is consumed was published directly: there is no trace context that somebody put in.
                    taking = [each for each in contenders if not (case.consuming and each.name == "traced")]
                    if not taking:
                        continue
                    order = _order(case, taking, broker, seconds, shift=repeat + number)
                    for name, sample in samples(_load(order, cores[0])).items():
                        results.samples.setdefault((name, case.name), []).append(sample)
                        say(_progress(repeat, repeats, case, name, sample))
                    broker.process.check()
                for contender in contenders:
                    if contender.process:
                        results.memory.setdefault(contender.name, []).append(contender.process.memory())
    return results


def samples(turns: Sequence[Turn]) -> dict[str, Sample]:
    """What the turns of each contender add up to."""
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(turn.name, []).append(turn)
    return {name: _sample(each) for name, each in found.items()}


def _sample(turns: Sequence[Turn]) -> Sample:
    messages = sum(turn.messages for turn in turns)
    seconds = sum(turn.seconds for turn in turns)
    latencies = [latency for turn in turns for latency in turn.latencies]
    percentiles = quantiles(latencies, n=100) if latencies else [0.0] * 99
    return Sample(
        rate=messages / seconds,
        cpu=sum(turn.cpu for turn in turns) * 1e6 / messages,
        broker_cpu=sum(turn.broker_cpu for turn in turns) * 1e6 / messages,
        load_cpu=sum(turn.load_cpu for turn in turns) * 1e6 / messages,
        p50=percentiles[49],
        p99=percentiles[98],
        others=sum(turn.other_cpu for turn in turns) / seconds,
        rates=tuple(turn.messages / turn.seconds for turn in turns),
        cpus=tuple(turn.cpu * 1e6 / turn.messages for turn in turns),
    )


def turns(names: Sequence[str], count: int, shift: int) -> list[str]:
    """``count`` turns for each, round by round, every round beginning with another one."""
    found: list[str] = []
    for number in range(count):
        start = (number + shift) % len(names)
        found += [*names[start:], *names[:start]]
    return found


def _order(case: Case, contenders: Sequence[Contender], broker: RabbitMQ, seconds: int, shift: int) -> Order:
    return Order(
        case=case,
        broker=Target("broker", broker.port, broker.process.pid),
        targets=[
            Target(
                contender.name,
                contender.tcp,
                contender.process.pid if contender.process else 0,
                traced=contender.name == "traced",
            )
            for contender in contenders
        ],
        turns=turns([contender.name for contender in contenders], max(round(seconds / TURN_SECONDS), 1), shift),
        seconds=TURN_SECONDS,
    )


def _load(order: Order, core: int) -> list[Turn]:
    """Have the generator carry it out, on its core."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "bench.amqp.load"]
    limit = len(order.turns) * order.seconds * 5 + 60
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asdict(order)),
            capture_output=True,
            text=True,
            timeout=limit,
            cwd=ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"the load did not end within {limit:g} s ({order.case.title})") from None
    if done.returncode != 0:
        raise BenchError(f"{order.case.title}: {done.stderr.strip()[-500:]}")
    return [Turn(**fields) for fields in json.loads(done.stdout)]


def _start(stack: ExitStack, name: str, broker: int, folder: Path, core: int) -> Contender:
    contender = CONTENDERS[name](broker, folder, core)
    if contender.process:
        stack.enter_context(contender.process)
        deadline = time.monotonic() + _START_SECONDS
        try:
            wait_open(contender.tcp, deadline, contender.process.check).close()
        except OSError as error:
            raise BenchError(f"{name} let nobody through within {_START_SECONDS:g} s: {error}") from None
    if name in ("sidecar", "interpreted"):
        _check_duties(contender, broker)
    return contender


def _check_duties(contender: Contender, broker: int) -> None:
    """What can be seen from outside: a trace header in what is published, and no unlimited prefetch."""
    queue = "bench.duties"
    with closing(Connection(broker)) as control, closing(Connection(contender.tcp)) as connection:
        control.call(wire.declare_queue(queue))
        connection.call(wire.confirm_select())
        connection.confirms.sent += PREFETCH
        connection.send(wire.publish("", queue, b"{}") * PREFETCH)
        while connection.confirms.outstanding:
            connection.wait()
        if b"\x0btraceparent" not in control.get(queue):
            raise BenchError(f"{contender.name} gave a message no traceparent, so the comparison would not be fair")
        connection.call(wire.consume(queue, "bench"))
        # Deliveries that were on their way come before this answer.
        time.sleep(0.2)
        connection.call(wire.cancel("bench"))
        if not 0 < connection.delivered < PREFETCH - 1:
            raise BenchError(
                f"{contender.name} let {connection.delivered} deliveries through to a consumer without a limit of its "
                "own, so the comparison would not be fair"
            )
        control.call(wire.delete_queue(queue))


def _progress(repeat: int, repeats: int, case: Case, name: str, sample: Sample) -> str:
    return (
        f"{repeat + 1}/{repeats}  {case.title:<50} {name:<11} {sample.cpu:6.1f} µs CPU {sample.rate:8.0f} msg/s  "
        f"broker {sample.broker_cpu:.1f} µs, load {sample.load_cpu:.1f} µs"
        + (f"  p50 {sample.p50:.0f} µs  p99 {sample.p99:.0f} µs" if sample.p99 else "")
        + (f"  (others: {sample.others:.0%} of a core)" if sample.others > 0.1 else "")
    )
