"""``python -m bench.cache``: small answers a CPU second, from memory and proxied, by a sidecar that does nothing else.

One sidecar has two ports to the same upstream, one with a cache. wrk asks both by turns, over 32 connections, and the
sidecar's CPU time is divided by the answers. The goal is five times as many; the exit code says whether it is met. It
takes a minute (``--short``: a quarter of that), and needs nginx, wrk and a machine that does nothing else. The
compiled build is measured too where there is one (``make compiled``). ``--alone``: without sockets, as
``bench.hotpath`` does it, with ``--profile`` to see where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench.contenders import Contender, compiled_program
from bench.hotpath import ANSWER, REQUEST, Loop, Sink, make_listener, time_runs
from bench.load import Case, measure, wait_ready
from bench.processes import BenchError, Child
from bench.upstream import Upstream
from sidecar.config.cache import CacheSettings
from sidecar.config.traffic import StaticEndpoint
from sidecar.config.traffic import Upstream as Settings
from sidecar.core.address import Address
from sidecar.demo.ports import free_ports
from sidecar.http.h1.server import Downstream
from sidecar.http.listener import HttpListener

GOAL: Final = 5.0
CASE: Final = Case("c32", "small body, 32 connections", 32)
NAMES: Final = ("proxied", "kept")


def sidecar(stack: ExitStack, build: str, program: list[str | Path], upstream: int, folder: Path) -> list[Contender]:
    """A sidecar's two ports, as contenders; ``taskset`` keeps it on the first core."""
    *ports, admin = free_ports(3)
    shared = {
        "endpoints": [f"127.0.0.1:{upstream}"],
        "bulkhead": {"max_connections": 1024, "max_requests": 1024, "max_pending": 1024},
    }
    config = {
        "service": {"name": "bench"},
        "registry": "none",
        "upstreams": {
            name: {"bind": f"127.0.0.1:{port}", "cache": {"ttl": "1h"} if name == "kept" else "off", **shared}
            for name, port in zip(NAMES, ports, strict=True)
        },
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "tracing": {"sample": 0},
    }
    path = folder / f"{build}.yaml"
    path.write_text(json.dumps(config))
    process = stack.enter_context(Child(build, [*program, "run", path], 0, folder / f"{build}.log"))
    return [Contender(f"{build}, {name}", port, 0, process) for name, port in zip(NAMES, ports, strict=True)]


def compare(build: str, program: list[str | Path], short: bool) -> float:
    """Measure by turns and print; how many times as many answers there are from memory."""
    core = 1 if (os.cpu_count() or 1) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, ExitStack() as stack:
        upstream = stack.enter_context(Upstream(Path(folder), core))
        began = time.monotonic()
        both = sidecar(stack, build, program, upstream.port, Path(folder))
        for it in both:
            wait_ready(it, began)
            measure(CASE, it, 1, core)
        found: dict[str, list[float]] = {it.name: [] for it in both}
        for turn in range(3 if short else 6):
            for it in both[:: 1 if turn % 2 else -1]:
                sample = measure(CASE, it, 1 if short else 3, core)
                if sample.errors:
                    raise BenchError(f"{it.name}: {sample.errors} errors")
                found[it.name].append(sample.cpu)
    proxied, kept = (median(found[it.name]) for it in both)
    ratio = proxied / kept
    print(
        f"{build}: {1e6 / proxied:,.0f} answers per CPU second proxied ({proxied:.1f} µs each), "
        f"{1e6 / kept:,.0f} from memory ({kept:.1f} µs): {ratio:.2f} times as many",
        flush=True,
    )
    return ratio


async def alone(exchanges: int, profile: bool) -> None:
    """The same without sockets: what each costs in Python."""
    for name, settings in (("proxied", None), ("kept", CacheSettings(ttl=3600.0))):
        loop = Loop()
        listener = make_listener(
            loop,
            Settings(
                name="up",
                bind=Address("127.0.0.1", 0),
                endpoints=(StaticEndpoint(address=Address("127.0.0.1", 1)),),
                policies={"cache": settings},
            ),
        )
        assert isinstance(listener, HttpListener)
        client = Downstream(listener)
        client.connection_made(Sink())
        client.data_received(REQUEST)
        conn = await loop.upstream
        conn.data_received(ANSWER.replace(b"2026", b"2036"))  # its date is no reason to be stale

        def run(n: int, client: Downstream = client, conn: object = conn, kept: bool = settings is not None) -> None:
            for _ in range(n):
                client.data_received(REQUEST)
                if not kept:
                    conn.data_received(ANSWER)  # type: ignore[attr-defined]

        time_runs(name, int, run, exchanges, profile)


def main() -> int:
    """Measure, print, and say whether the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m bench.cache", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a quarter of the time")
    parser.add_argument("--alone", action="store_true", help="without sockets")
    parser.add_argument("--profile", action="store_true", help="with --alone: print where the time goes")
    options = parser.parse_args()
    if options.alone:
        asyncio.run(alone(10_000 if options.short else 50_000, options.profile))
        return 0
    builds: dict[str, list[str | Path]] = {"interpreted": [sys.executable, "-m", "sidecar"]}
    try:
        builds["compiled"] = [compiled_program()]
    except BenchError:
        print("there is no compiled build here")
    ratios = [compare(build, program, options.short) for build, program in builds.items()]
    met = min(ratios) >= GOAL
    print(f"{'✓' if met else '✗'} at least {GOAL:g} times as many")
    return 0 if met else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BenchError as error:
        print(f"bench.cache: {error}", file=sys.stderr)
        raise SystemExit(1) from None
