"""``python -m bench.slow_endpoint``: one of five servers becomes slower by 500 ms; how soon is p99 back?

    python -m bench.slow_endpoint [SECONDS_BEFORE SECONDS_AFTER]

Five servers that take about 20 ms, a real sidecar, and 200 requests per second that begin whether the ones before have
ended or not. For round robin as it is, with ``health.eject``, and for the balancers that go by latency: p99 before, in
the five seconds after, and from then on; the goal is to be below 1.2 times what it was. It takes about two minutes.
Simulated, without other processes in the way: ``python -m sidecar.simulate slow_endpoint``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from bench.processes import BenchError, Child
from sidecar.demo.ports import free_ports

RATE: Final = 200
SERVERS: Final = 5
USUAL: Final = 0.02
SLOWER: Final = 0.5
WITHIN: Final = 5.0
GOAL: Final = 1.2
PATIENCE: Final = 20.0

POLICIES: Final[dict[str, dict[str, Any]]] = {
    "round_robin": {"balancer": "round_robin"},
    "round_robin, eject": {"balancer": "round_robin", "health": {"eject": {}}},
    "peak_ewma": {"balancer": "peak_ewma"},
    "prequal": {"balancer": "prequal"},
}


class Server:
    """Answers each request after a while."""

    def __init__(self) -> None:
        self.slower = 0.0
        self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.served += 1
                await asyncio.sleep(random.uniform(0.5, 1.5) * USUAL + self.slower)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[list[Server], list[int]]]:
    """Those that listen, and their ports."""
    async with AsyncExitStack() as stack:
        found = [Server() for _ in range(SERVERS)]
        ports = []
        for it in found:
            listening = await stack.enter_async_context(await asyncio.start_server(it.serve, "127.0.0.1", 0))
            ports.append(int(listening.sockets[0].getsockname()[1]))
        yield found, ports


async def listening(port: int) -> None:
    """Wait for the sidecar."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise BenchError("the sidecar does not listen")


async def ask(port: int) -> float:
    """Seconds to an answer; inf: there was none."""
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return float("inf")
    return time.monotonic() - began if answer.startswith(b"HTTP/1.1 200") else float("inf")


async def load(port: int, seconds: float) -> list[tuple[float, float]]:
    """When each request began, from now on, and how long it took."""
    began = time.monotonic()
    asked: list[tuple[float, asyncio.Task[float]]] = []
    for n in range(int(seconds * RATE)):
        await asyncio.sleep(max(0.0, began + n / RATE - time.monotonic()))
        asked.append((n / RATE, asyncio.create_task(ask(port))))
    return [(at, await task) for at, task in asked]


def p99(took: list[tuple[float, float]], since: float, until: float) -> float:
    found = sorted(seconds for at, seconds in took if since <= at < until)
    return found[int(len(found) * 0.99)] if found else float("nan")


async def measure(port: int, found: list[Server], before: float, after: float) -> str:
    """A line of the table."""
    for it in found:
        it.slower = 0.0
    usual = p99(await load(port, before), before / 3, before)
    found[2].slower = SLOWER
    served = found[2].served
    took = await load(port, after)
    late = p99(took, WITHIN, after)
    verdict = "met" if late < GOAL * usual else "missed"
    return (
        f"{usual * 1000:8.0f} ms {p99(took, 0, WITHIN) * 1000:14.0f} ms {late * 1000:12.0f} ms {late / usual:8.2f} x"
        f" {found[2].served - served:8}   {verdict}"
    )


async def main() -> None:
    before, after = (float(it) for it in sys.argv[1:3]) if len(sys.argv) > 2 else (9.0, 20.0)
    ports = free_ports(len(POLICIES))
    async with servers() as (found, addresses):
        endpoints = [f"127.0.0.1:{port}" for port in addresses]
        config: dict[str, Any] = {
            "service": {"name": "bench"},
            "admin": {"bind": "127.0.0.1:0"},
            "upstreams": {
                f"up{n}": {"bind": f"127.0.0.1:{port}", "endpoints": endpoints, **policy}
                for n, (port, policy) in enumerate(zip(ports, POLICIES.values(), strict=True))
            },
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sidecar.yaml"
            file.write_text(yaml.safe_dump(config))
            with Child("sidecar", [sys.executable, "-m", "sidecar", "run", file], None, Path(folder) / "log"):
                print(f"p99 of {RATE} requests/s to {SERVERS} servers of which one becomes slower by {SLOWER:g} s")
                print(f"{'':20} {'before':>11} {'first 5 s':>17} {'from then':>15} {'':>10} {'to it':>8}")
                for name, port in zip(POLICIES, ports, strict=True):
                    await listening(port)
                    print(f"{name:20} {await measure(port, found, before, after)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
