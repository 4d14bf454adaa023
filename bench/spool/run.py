"""The run: one pass of each contender after the other, with a broker of its own each time."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from bench.amqp import wire
from bench.amqp.cases import EXCHANGE, MAX_LENGTH, ROUTING_KEY, WINDOW
from bench.amqp.client import wait_open
from bench.amqp.contenders import compiled
from bench.amqp.load import Lane, full_speed, paced
from bench.processes import ROOT, BenchError, Child, cpu_seconds, peak_memory
from bench.rabbitmq import RabbitMQ
from sidecar.demo.ports import free_ports

BODY_BYTES: Final = 1024
CONNECTIONS: Final = 4
#: Messages per second, and for how many seconds, when it is the latency that counts.
RATE: Final = 2000
PACED_SECONDS: Final = 5
_QUEUE: Final = "bench.spool"
_START_SECONDS: Final = 120.0
#: The slowest that a spool may be to empty, messages per second, before the run is given up.
_SLOWEST: Final = 1000

#: In the order of the report: the build that goes into the image, and the same source run by CPython.
CONTENDERS: Final = ("sidecar", "interpreted")


@dataclass(frozen=True, slots=True)
class Sample:
    """One pass. ``p50`` and ``p99``: microseconds from when a publish was due to its ack, at :data:`RATE`; ``taken``
    and ``sent``: messages per second into the spool and out of it; ``taking_cpu`` and ``sending_cpu``: microseconds of
    CPU per message; ``messages`` and ``size`` (bytes, as counted): what was in the spool when it was opened again,
    which took ``reopened`` seconds with the start of the process; ``peak``: the most bytes resident, in either life."""

    p50: float
    p99: float
    taken: float
    taking_cpu: float
    messages: int
    size: int
    reopened: float
    sent: float
    sending_cpu: float
    peak: int


@dataclass(slots=True)
class Results:
    """Every pass, by contender."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)


def run(
    names: Sequence[str], cores: tuple[int, int], repeats: int, seconds: int, say: Callable[[str], None]
) -> Results:
    """Measure the contenders ``repeats`` times; each is given messages at full speed for ``seconds``. ``cores`` are the
    sidecar's, and that of the broker and the load, which are not busy at the same time."""
    results = Results()
    # Not in a folder that may be in memory: what is measured is a disk, too.
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as temporary:
        for repeat in range(repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                folder = Path(temporary, f"{name}{repeat}")
                folder.mkdir()
                with _on_core(cores[1]):
                    sample = measure(name, folder, cores, seconds)
                results.samples.setdefault(name, []).append(sample)
                say(_progress(repeat, repeats, name, sample))
    return results


def measure(name: str, folder: Path, cores: tuple[int, int], seconds: float) -> Sample:
    """One pass."""
    with ExitStack() as stack:
        broker = stack.enter_context(RabbitMQ(folder / "rabbitmq", cores[1]))
        broker.wait_ready()
        _prepare(broker)
        sidecar = _Sidecar(name, folder, cores[0])
        stack.callback(sidecar.close)
        latencies = sidecar.load(lambda lane: paced(lane, RATE, min(seconds, PACED_SECONDS)), 1)
        count = len(latencies)
        percentiles = quantiles(latencies, n=100)
        begun, cpu = time.perf_counter(), sidecar.cpu()
        taken = sidecar.load(lambda lane: full_speed(lane, seconds), CONNECTIONS)
        took, taking_cpu = time.perf_counter() - begun, sidecar.cpu() - cpu
        count += taken
        peak = sidecar.peak()
        sidecar.kill()
        begun = time.perf_counter()
        sidecar.start()
        kept = sidecar.spool()
        reopened = time.perf_counter() - begun
        if kept["messages"] != count:
            raise BenchError(f"{name} has {kept['messages']} messages of {count} that it has acknowledged")
        begun, cpu = time.perf_counter(), sidecar.cpu()
        sidecar.lead_to(broker.port)
        deadline = time.monotonic() + 30 + count / _SLOWEST
        while left := sidecar.spool()["messages"]:
            if time.monotonic() > deadline:
                raise BenchError(f"{name} still has {left} messages of {count}")
            time.sleep(0.1)
        emptied, sending_cpu = time.perf_counter() - begun, sidecar.cpu() - cpu
        if dead := sidecar.spool()["dead_letters"]["messages"]:
            raise BenchError(f"{dead} of {count} messages became dead letters")
        return Sample(
            p50=percentiles[49],
            p99=percentiles[98],
            taken=taken / took,
            taking_cpu=taking_cpu * 1e6 / taken,
            messages=count,
            size=kept["bytes"],
            reopened=reopened,
            sent=count / emptied,
            sending_cpu=sending_cpu * 1e6 / count,
            peak=max(peak, sidecar.peak()),
        )


def _prepare(broker: RabbitMQ) -> None:
    """What is published to, and a queue that keeps little of it."""
    with closing(wait_open(broker.port, time.monotonic() + _START_SECONDS)) as control:
        control.call(wire.declare_exchange(EXCHANGE, "topic"))
        control.call(wire.declare_queue(_QUEUE, MAX_LENGTH))
        control.call(wire.bind_queue(_QUEUE, EXCHANGE, f"{ROUTING_KEY}.#"))


class _Sidecar:
    """A contender, first without a broker."""

    def __init__(self, name: str, folder: Path, core: int) -> None:
        self._name = name
        self._folder = folder
        self._core = core
        self._program = [compiled()] if name == "sidecar" else [sys.executable, "-m", "sidecar"]
        self._port, self._admin, nobody = free_ports(3)
        self._file = folder / "sidecar.yaml"
        self._lives = 0
        self._configure(nobody)
        self.start()

    def _configure(self, broker: int) -> None:
        config = {
            "service": {"name": "bench"},
            "registry": "none",
            "upstreams": {
                "rabbitmq": {
                    "bind": f"127.0.0.1:{self._port}",
                    "protocol": "amqp",
                    "endpoints": [f"127.0.0.1:{broker}"],
                    "amqp": {
                        "credentials": {"username": "guest", "password": "guest"},
                        "spool": {"path": str(self._folder / "spool"), "max_bytes": "8GiB"},
                    },
                },
            },
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "tracing": {"sample": 0},
        }
        self._file.write_text(json.dumps(config, indent=2))  # JSON is YAML

    def start(self) -> None:
        """(Again.) Until it has the spool open."""
        self._lives += 1
        log = self._folder / f"sidecar{self._lives}.log"
        self._child = Child(self._name, [*self._program, "run", self._file], self._core, log)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._child.check()
            try:
                self.spool()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BenchError(f"{self._name} did not start within {_START_SECONDS:g} s: {error}") from None
            time.sleep(0.01)

    def load(self, work: Callable[[Lane], Any], connections: int) -> Any:
        """What ``work`` gives, done over so many connections."""
        with ExitStack() as stack:
            lane = Lane(self._name)
            for number in range(connections):
                connection = stack.enter_context(closing(wait_open(self._port, time.monotonic() + _START_SECONDS)))
                connection.call(wire.confirm_select())
                message = wire.publish(EXCHANGE, f"{ROUTING_KEY}.{number}", b"x" * BODY_BYTES)
                lane.add(connection, message * WINDOW, len(message))
            return work(lane)

    def lead_to(self, broker: int) -> None:
        """There is a broker from now on."""
        self._configure(broker)
        os.kill(self._child.pid, signal.SIGHUP)

    def spool(self) -> dict[str, Any]:
        """What it says of it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/amqp/rabbitmq/spool", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def cpu(self) -> float:
        return cpu_seconds(self._child.pid)

    def peak(self) -> int:
        return peak_memory(self._child.pid)

    def kill(self) -> None:
        os.kill(self._child.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._child.__exit__(None, None, None)


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """This process, which makes the load, is there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _progress(repeat: int, repeats: int, name: str, sample: Sample) -> str:
    return (
        f"{repeat + 1}/{repeats}  {name:<12} acks p50 {sample.p50:.0f} µs  p99 {sample.p99:.0f} µs  "
        f"in {sample.taken:.0f}/s  reopened in {sample.reopened:.2f} s  out {sample.sent:.0f}/s  "
        f"peak {sample.peak / 2**20:.1f} MiB"
    )
