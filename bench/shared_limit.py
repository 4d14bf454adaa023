"""A rate limit that sidecars share, with real processes: how exact it is, what an outage of Redis does, what it costs.

    python -m bench.shared_limit [--short]

Eight sidecars have one limit of 1000/s in one Redis. They get even shares of 1.6 times as much, then very uneven ones;
what passed is divided by Redis' own time. Then Redis is killed: each sidecar has a configured way to go on, and it is
measured how soon it does, and the longest that any request took. At last two sidecars, one with a shared limit that
never bites and one with a limit of its own, have the same load by turns.

It takes a minute, needs redis-server, nginx and wrk, and exits with 1 when a goal is missed. The compiled build is
measured where there is one (``make compiled``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.contenders import Contender, compiled_program
from bench.load import Case, measure, wait_ready
from bench.processes import BenchError, Child
from bench.upstream import Upstream
from sidecar.demo.ports import free_ports
from sidecar.redis.resp import Reader, encode

RATE: Final = 1000
SIDECARS: Final = 8
EVEN: Final = [200.0] * SIDECARS
UNEVEN: Final = [1000.0, 300, 150, 100, 20, 20, 5, 5]
#: How each of them goes on without Redis.
MODES: Final = ("local", "local", "refuse", "refuse", "allow", "allow", "local", "local")
CASE: Final = Case("c32", "small body, 32 connections", 32)
#: The goals: of the rate; seconds until ``on_failure`` is in force; CPU per request beside a limit of one's own.
EXACT: Final = 0.03
SOON: Final = 0.1
COST: Final = 1.03
#: Requests may take as long, whatever happens to Redis.
LONGEST: Final = 0.5

#: When a request was sent, how long it took, its status (0: no answer).
Outcome = tuple[float, float, int]


class Caller(asyncio.Protocol):
    """A connection with one request at a time under way."""

    REQUEST: Final = b"GET /small HTTP/1.1\r\nhost: bench\r\n\r\n"

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[int] | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length and self._answer is not None and not self._answer.done():
            self._data = b""
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def ask(self) -> asyncio.Future[int]:
        """Send a request; its status comes."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(self.REQUEST)
        return self._answer


class Load:
    """Requests to one port, so many a second whatever the answers take; but with no more than ``most`` under way, so
    that a machine that cannot do as much is not asked for it."""

    def __init__(self, port: int, most: int = 10_000) -> None:
        self._port, self._most = port, most
        self._idle: list[Caller] = []
        self._stopped = False
        self.outcomes: list[Outcome] = []

    def stop(self) -> None:
        """Ask no more: :meth:`run` ends when what is under way is answered."""
        self._stopped = True

    async def run(self, rate: float, until: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        under_way: set[asyncio.Task[None]] = set()
        while due < until and not self._stopped:
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._one())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += 1 / rate
            if len(under_way) >= self._most:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                due = max(due, loop.time())
        if under_way:
            await asyncio.wait(under_way)

    async def _one(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._idle:
            caller = self._idle.pop()
        else:
            _, caller = await loop.create_connection(Caller, "127.0.0.1", self._port)
        status = await caller.ask()
        self.outcomes.append((began, loop.time() - began, status))
        if status:
            self._idle.append(caller)


def redis_time(port: int) -> float:
    """Seconds by Redis' clock."""
    import socket

    reader = Reader()
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(encode("TIME"))
        while data := sock.recv(4096):
            for reply in reader.feed(data):
                assert isinstance(reply, list)
                seconds, micros = (int(it) for it in reply if isinstance(it, bytes))
                return seconds + micros / 1e6
    raise BenchError("Redis does not say what time it is")


def _program() -> list[str | Path]:
    try:
        return [compiled_program()]
    except BenchError:
        return [sys.executable, "-m", "sidecar"]


class Bench:
    """All processes."""

    def __init__(self, stack: ExitStack, folder: Path, cores: tuple[int, int]) -> None:
        self._stack, self._folder, self._cores = stack, folder, cores
        binary = shutil.which("redis-server")
        if binary is None:
            raise BenchError("there is no redis-server: install the package redis-server")
        (self.redis_port,) = free_ports(1)
        command = [binary, "--port", str(self.redis_port), "--save", "", "--dir", str(folder)]
        self.redis = stack.enter_context(Child("redis", command, cores[1], folder / "redis.log"))
        self.upstream = stack.enter_context(Upstream(folder / "nginx", cores[1]))

    def sidecar(self, name: str, limit: dict[str, Any], on_failure: str = "local") -> Contender:
        """One with that limit, which starts."""
        http, admin = free_ports(2)
        file = self._folder / f"{name}.yaml"
        upstream = {"bind": f"127.0.0.1:{http}", "endpoints": [f"127.0.0.1:{self.upstream.port}"], "rate_limit": limit}
        content = {
            "service": {"name": "bench", "id": name},
            "redis": {"url": f"redis://127.0.0.1:{self.redis_port}", "on_failure": on_failure},
            "upstreams": {"http": upstream},
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "log": {"access": "off"},
            "why": {"records": 0},
        }
        file.write_text(json.dumps(content))  # JSON is YAML
        process = Child(name, [*_program(), "run", file], self._cores[0], self._folder / f"{name}.log")
        self._stack.enter_context(process)
        return Contender(name, http, 0, process)

    def ready(self, *them: Contender) -> None:
        """Wait until they serve."""
        since = time.monotonic()
        for it in them:
            wait_ready(it, since, 60.0)


async def total(bench: Bench, loads: Sequence[Load], rates: Sequence[float], seconds: float) -> float:
    """What passes in a second by Redis' clock, in all sidecars together, once the burst is used up."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    running = [
        asyncio.ensure_future(it.run(rate, begin + 3.0 + seconds)) for it, rate in zip(loads, rates, strict=True)
    ]
    await asyncio.sleep(3.0)
    since, first = redis_time(bench.redis_port), _passed(loads)
    await asyncio.sleep(seconds)
    last, until = _passed(loads), redis_time(bench.redis_port)
    await asyncio.gather(*running)
    return (last - first) / (until - since)


def _passed(loads: Sequence[Load]) -> int:
    return sum(sum(1 for _, _, status in it.outcomes if status == 200) for it in loads)


async def outage(bench: Bench, loads: Sequence[Load], seconds: float) -> tuple[float, float, dict[str, float]]:
    """Kill Redis under load: seconds until each sidecar does as it is configured; the longest request; and what passes
    in a second afterwards, by mode."""
    loop = asyncio.get_running_loop()
    for it in loads:
        it.outcomes.clear()
    begin = loop.time()
    running = [asyncio.ensure_future(it.run(200.0, begin + 1.0 + seconds)) for it in loads]
    await asyncio.sleep(1.0)
    os.kill(bench.redis.pid, 9)
    killed = loop.time()
    await asyncio.gather(*running)
    late, passing = 0.0, dict.fromkeys(MODES, 0.0)
    for it, mode in zip(loads, MODES, strict=True):
        after = [(began, status) for began, _, status in it.outcomes if began > killed]
        wrong = {"refuse": 200, "allow": 429}.get(mode)
        late = max([late, *(began - killed for began, status in after if status == wrong)])
        passing[mode] += sum(status == 200 for _, status in after) / seconds / MODES.count(mode)
    longest = max(took for it in loads for began, took, _ in it.outcomes if began > killed - 0.2)
    if any(status not in (200, 429) for it in loads for _, _, status in it.outcomes):
        raise BenchError("a request was neither answered nor refused")
    return late, longest, passing


def cost(bench: Bench, core: int, turns: int, seconds: float) -> list[float]:
    """CPU per request with a shared limit that never bites, of that with one of the sidecar's own, turn by turn."""
    limit = {"rate": "1000000/s", "burst": 1_000_000}
    own, shared = (bench.sidecar(name, {**limit, "shared": name == "shared"}) for name in ("own", "shared"))
    bench.ready(own, shared)
    for it in (own, shared):
        measure(CASE, it, 1, core)
    found = []
    for turn in range(turns):
        order = (own, shared) if turn % 2 else (shared, own)
        cpu = {it.name: measure(CASE, it, seconds, core).cpu for it in order}
        found.append(cpu["shared"] / cpu["own"])
    return found


def main() -> int:
    """Measure, print, and say whether all goals are met."""
    parser = argparse.ArgumentParser(prog="python -m bench.shared_limit")
    parser.add_argument("--short", action="store_true", help="a third of the time")
    short = parser.parse_args().short
    cores = (0, 1) if (os.cpu_count() or 1) > 1 else (0, 0)
    missed = []

    def goal(text: str, met: bool) -> None:
        print(f"{'✓' if met else '✗'} {text}", flush=True)
        if not met:
            missed.append(text)

    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, ExitStack() as stack:
        bench = Bench(stack, Path(folder), cores)
        print(f"{SIDECARS} sidecars ({_program()[0]}), one limit of {RATE}/s", flush=True)
        limit = {"rate": f"{RATE}/s", "burst": RATE, "shared": True}
        them = [bench.sidecar(f"s{n}", limit, mode) for n, mode in enumerate(MODES)]
        bench.ready(*them)
        loads = [Load(it.http) for it in them]

        async def limits() -> None:
            await asyncio.sleep(3.0)  # each has heard how many they are
            for name, rates in (("even shares", EVEN), ("uneven shares", UNEVEN)):
                rate = await total(bench, loads, rates, 2.0 if short else 5.0)
                goal(f"{name} of {sum(rates):.0f}/s: {rate:.0f}/s passed (± 3 %)", abs(rate / RATE - 1) <= EXACT)
            late, longest, passing = await outage(bench, loads, 2.0 if short else 4.0)
            goal(f"Redis killed: on_failure in force after {late * 1000:.0f} ms (100 ms)", late <= SOON)
            goal(f"the longest request took {longest * 1000:.0f} ms (500 ms)", longest <= LONGEST)
            told = ", ".join(f"{mode} {rate:.0f}/s" for mode, rate in passing.items())
            share = RATE / SIDECARS
            # The bucket of a share begins full.
            most = share + share / (2.0 if short else 4.0)
            goal(
                f"then of 200/s each: {told} (the share is {share:.0f}/s)",
                share * 0.9 <= passing["local"] <= most * 1.1,
            )

        asyncio.run(limits())
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, ExitStack() as stack:
        ratios = cost(Bench(stack, Path(folder), cores), cores[1], 3 if short else 6, 1 if short else 2)
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        goal(
            f"CPU per request beside a limit of one's own: {median(ratios):.3f} [{each}] (1.03)", median(ratios) <= COST
        )
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BenchError as error:
        print(f"bench.shared_limit: {error}", file=sys.stderr)
        raise SystemExit(1) from None
