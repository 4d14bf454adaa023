"""``python -m bench.lag``: how late the event loop wakes up while spans are exported.

A timer is due again and again, and how late each one is, is noted; with each one some spans are recorded, so that there
are ``--rate`` of them a second. By turns they go nowhere (*none*), and to a collector in another process (*exported*):
what the export costs the loop is the difference within one run, whatever else the machine does. The goal is a 99th
percentile within 1 ms of none. What a span costs in CPU time, encoding and sending included, is told, too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import uvloop

from sidecar.core import conventions as names
from sidecar.core.records import SpanRecord
from sidecar.telemetry.spans import SpanExporter

#: Seconds between two timers.
EVERY: Final = 0.005
#: The goal: so much later than without export, seconds.
GOAL: Final = 0.001
VARIANTS: Final = ("none", "exported")
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Lateness(NamedTuple):
    """How late timers were, seconds, and the CPU time that the process took meanwhile."""

    p50: float
    p90: float
    p99: float
    worst: float
    cpu: float


def lateness(samples: Sequence[float], cpu: float) -> Lateness:
    """Percentiles of at least two samples."""
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return Lateness(cuts[49], cuts[89], cuts[98], max(samples), cpu)


def span(number: int) -> SpanRecord:
    """One like those of requests: 13 attributes."""
    now = time.time_ns()
    attributes: dict[str, str | int] = {
        names.METHOD: "GET",
        names.URL_PATH: f"/api/v1/tasks/{number}",
        names.URL_SCHEME: "http",
        names.SERVER_ADDRESS: "tasks.internal",
        names.SERVER_PORT: 10030,
        names.UPSTREAM: "tasks",
        names.ATTEMPTS: 1,
        names.REQUEST_ID: f"{number:032x}",
        names.STATUS_CODE: 200,
        names.CLIENT_ADDRESS: "10.0.0.7",
        names.PROTOCOL_VERSION: "1.1",
        names.ROUTE: "/api/v1/tasks/*",
        names.PEER_ADDRESS: "10.0.0.9",
    }
    return SpanRecord(
        f"{number + 1:032x}", f"{number + 1:016x}", f"{number + 2:016x}", "GET /api/v1/tasks/*", "server",
        now - 1_000_000, now, attributes, True,
    )  # fmt: skip


async def watch(record: Callable[[SpanRecord], None], seconds: float, rate: int) -> Lateness:
    """Record so many spans a second for so long, and see how late timers are."""
    loop = asyncio.get_running_loop()
    samples: list[float] = []
    done = loop.create_future()
    clock = time.monotonic  # the loop's own has milliseconds
    begun = clock()
    recorded = 0

    def tick(due: float) -> None:
        nonlocal recorded
        now = clock()
        samples.append(max(now - due, 0.0))
        while recorded < (now - begun) * rate:
            record(span(recorded))
            recorded += 1
        if now - begun > seconds:
            done.set_result(None)
        else:
            loop.call_later(EVERY, tick, clock() + EVERY)

    before = time.process_time()
    loop.call_later(EVERY, tick, begun + EVERY)
    await done
    return lateness(samples, time.process_time() - before)


async def compare(url: str, seconds: float, rate: int, repeats: int) -> tuple[dict[str, list[Lateness]], int, int]:
    """Both variants by turns; with them how many spans arrived, and how many did not."""
    found: dict[str, list[Lateness]] = {variant: [] for variant in VARIANTS}
    exporter = SpanExporter(url, "bench", "bench-1")
    try:
        for _ in range(repeats):
            found["none"].append(await watch(lambda span: None, seconds, rate))
            found["exported"].append(await watch(exporter.record, seconds, rate))
            await asyncio.sleep(1.5)  # what is left of them goes before the next turn
    finally:
        await asyncio.to_thread(exporter.close)
    return found, exporter.sent, sum(exporter.dropped.values())


def report(found: dict[str, list[Lateness]], seconds: float, rate: int, sent: int, dropped: int) -> str:
    """The figures as text: medians over the repeats, and whether the goal is met."""
    lines = [
        f"{'':10}  {'p50':>8}  {'p90':>8}  {'p99':>8}  {'worst':>8}  ms late, medians of {len(found['none'])} turns"
    ]
    middle = {
        variant: Lateness(*(statistics.median(column) for column in zip(*turns, strict=True)))
        for variant, turns in found.items()
    }
    for variant, it in middle.items():
        lines.append(f"{variant:10}  " + "  ".join(f"{value * 1000:8.3f}" for value in it[:4]))
    later = statistics.median(
        with_it.p99 - without.p99 for without, with_it in zip(found["none"], found["exported"], strict=True)
    )
    lines.append(
        f"p99 of exported: {later * 1000:+.3f} ms (goal: at most {GOAL * 1000:+.0f}) — "
        f"{'met' if later <= GOAL else 'missed'}"
    )
    cost = (middle["exported"].cpu - middle["none"].cpu) / (seconds * rate)
    lines.append(f"{sent} spans arrived, {dropped} did not; {cost * 1e6:.0f} µs of CPU time each")
    return "\n".join(lines)


async def _collect() -> None:
    """A collector that takes everything, unseen, on a port that it prints."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each variant")
    parser.add_argument("--rate", type=int, default=1000, help="spans a second")
    parser.add_argument("--collector", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collector:
        asyncio.run(_collect())
        return 0
    command = [sys.executable, "-m", "bench.lag", "--collector"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as collector:
        try:
            assert collector.stdout is not None
            url = f"http://127.0.0.1:{int(collector.stdout.readline())}"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found, sent, dropped = runner.run(compare(url, options.seconds, options.rate, options.repeats))
        finally:
            collector.terminate()
    print(report(found, options.seconds, options.rate, sent, dropped))
    return 0


if __name__ == "__main__":
    sys.exit(main())
