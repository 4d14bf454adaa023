"""A real sidecar whose upstreams' names are good, silent, failing, lost and moving, beside one that has only good ones.
With ``SIDECAR_SOAK=1`` for two minutes instead of a few seconds, and latencies are compared, too."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support.dns import SERVFAIL, DnsServer, Zone
from support.processes import App, Sidecar, ending, get, wait_for

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
SECONDS = 120.0 if SOAK else 5.0
#: Requests per second to all good upstreams of one sidecar together, and their number.
RATE = 200.0 if SOAK else 100.0
GOOD = tuple(f"good{i}" for i in range(5))
TTL = 2 if SOAK else 1
#: How much slower than its neighbour the sidecar with the bad names may be, and what is noise, seconds.
SLOWER, NOISE = 1.2, 0.0005


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as it:
        yield it


def config(dns: DnsServer, port: int, *names: str, **more: Any) -> dict[str, Any]:
    """One upstream for each name, as ``name.test``."""
    return {
        "service": {"name": "caller"},
        "dns": {"servers": [dns.address], "timeout": "500ms"},
        "upstreams": {
            name: {"bind": "127.0.0.1:0", "endpoints": [f"{name}.test:{port}"], "timeout": {"request": "10s"}}
            for name in names
        },
        **more,
    }


class Calls:
    """Calls through one port of a sidecar, one after the other, over a connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: By status and error; 0: no answer at all.
        self.answers: Counter[tuple[int, str]] = Counter()
        self.seconds: list[float] = []
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self) -> bytes:
        """One call; the body."""
        begun = time.perf_counter()
        try:
            if self._stream is None:
                self._stream = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._stream
            writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields["content-length"]))
        except (OSError, EOFError, KeyError):
            self.answers[0, ""] += 1
            self.close()
            return b""
        self.seconds.append(time.perf_counter() - begun)
        self.answers[int(head.split(" ", 2)[1]), fields.get("x-sidecar-error", "")] += 1
        return body

    async def keep_calling(self, every: float, until: float) -> None:
        """Calls at fixed times, however long they take."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while due < until:
            await asyncio.sleep(due - loop.time())
            await self.call()
            due += every

    def close(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None


def quantile(calls: list[Calls], share: float) -> float:
    values = sorted(seconds for it in calls for seconds in it.seconds)
    return values[math.ceil(len(values) * share) - 1]


async def serve(stack: AsyncExitStack, host: str, port: int) -> None:
    """A server that answers with its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(host), host.encode()))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:  # also when the loop ends first
            writer.close()

    await stack.enter_async_context(await asyncio.start_server(answer, host, port))


def test_bad_names_are_nobody_elses_trouble(tmp_path: Path, dns: DnsServer) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        port = app.ready().port
        dns.zones |= {f"{name}.test": Zone(["127.0.0.1"], ttl=1) for name in GOOD}
        dns.zones["silent.test"] = Zone(silent=True)
        dns.zones["failing.test"] = Zone(rcode=SERVFAIL)
        dns.zones["lost.test"] = Zone(["127.0.0.1"], ttl=1)
        dns.zones["moving.test"] = Zone(["127.0.5.1"], ttl=TTL)
        bad = ("silent", "failing", "lost", "moving")
        # localhost: neither the check of the app nor inbound waits for anybody.
        inbound: dict[str, Any] = {
            "service": {
                "name": "caller",
                "app": f"localhost:{port}",
                "check": {"http": "/health", "interval": "200ms"},
            },
            "inbound": {"bind": "127.0.0.1:0"},
        }
        plain = Sidecar(tmp_path, config(dns, port, *GOOD), "plain")
        tried = Sidecar(tmp_path, config(dns, port, *GOOD, *bad, **inbound), "tried")
        processes += [plain, tried]
        plain.ready()
        tried.ready()
        assert tried.seconds_to_ready < 30  # the silent name holds it up for two
        dns.zones["lost.test"] = Zone(silent=True)
        asyncio.run(traffic(dns, port, plain, tried))

        shown = get(f"{tried.admin}/upstreams/silent")[1]
        assert shown["names"] == [
            {
                "name": "silent.test",
                "addresses": [],
                "age": None,
                "error": "no DNS server has answered in time",
                "cause": "lookup_failed",
            }
        ]
        names = {name: get(f"{tried.admin}/upstreams/{name}")[1]["names"][0] for name in ("failing", "lost", "moving")}
        assert names["failing"]["error"] == "the DNS server has failed to find out"
        assert (names["lost"]["addresses"], names["lost"]["error"]) == (
            ["127.0.0.1"], "no DNS server has answered in time",
        )  # fmt: skip
        assert names["moving"]["error"] is None
        assert get(f"{tried.admin}/health/caller")[1]["status"] == "healthy"
        assert '"the app is unhealthy"' not in tried.output()


async def traffic(dns: DnsServer, port: int, plain: Sidecar, tried: Sidecar) -> None:
    """Calls to all ports of both sidecars at the same time, while a name moves."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SECONDS
    good = {sidecar: [Calls(sidecar.port(name)) for name in GOOD] for sidecar in (plain, tried)}
    inbound, lost, silent, failing, moving = (
        Calls(tried.port(name)) for name in ("caller", "lost", "silent", "failing", "moving")
    )
    every = len(GOOD) / RATE
    async with AsyncExitStack() as stack:
        for host in ("127.0.5.1", "127.0.5.2"):
            await serve(stack, host, port)
        for calls in (*good[plain], *good[tried], inbound, lost, silent, failing, moving):
            stack.callback(calls.close)
        async with asyncio.TaskGroup() as group:
            for calls in (*good[plain], *good[tried], inbound, lost):
                group.create_task(calls.keep_calling(every, until))
            for calls in (silent, failing):
                group.create_task(calls.keep_calling(0.1, until))
            moves = group.create_task(move(dns, moving, until))
    for calls in (*good[plain], *good[tried], inbound, lost, moving):
        assert set(calls.answers) == {(200, "")}
    for calls in (silent, failing):
        assert set(calls.answers) <= {(503, "no_endpoints"), (503, "circuit_open")}
    assert moves.result(), "there was no time for a move"
    assert max(moves.result()) < TTL + 1
    if SOAK:
        for share in (0.5, 0.99):
            found = {sidecar: quantile(calls, share) for sidecar, calls in good.items()}
            print(f"p{share * 100:g}: {found[tried] * 1000:.2f} ms, without bad names {found[plain] * 1000:.2f} ms")
            assert found[tried] < found[plain] * SLOWER + NOISE


async def move(dns: DnsServer, calls: Calls, until: float) -> list[float]:
    """Move the name again and again; how long each move took to be followed, seconds."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    hosts = ("127.0.5.2", "127.0.5.1")
    while loop.time() < until:
        host = hosts[len(took) % 2]
        dns.zones["moving.test"] = Zone([host], ttl=TTL)
        begun = loop.time()
        while await calls.call() != host.encode():
            assert loop.time() - begun < 10 * TTL, "the move is not noticed"
            await asyncio.sleep(0.02)
        took.append(loop.time() - begun)
    return took


def test_a_name_that_comes_later_is_taken_in(tmp_path: Path, dns: DnsServer) -> None:
    """There is no such name at the start; who calls is told, and is served once there is."""
    app = App(tmp_path, "app")
    with ending(app) as processes:
        port = app.ready().port
        sidecar = Sidecar(tmp_path, config(dns, port, "late"))
        processes.append(sidecar)
        sidecar.ready()
        assert sidecar.seconds_to_ready < 20
        url = f"http://127.0.0.1:{sidecar.port('late')}/"
        status, body = get(url)
        assert (status, body["error"]) == (503, "no_endpoints")
        assert "late.test does not resolve: there is no such name" in body["message"]
        dns.zones["late.test"] = Zone(["127.0.0.1"])
        wait_for(lambda: get(url)[0] == 200, "the name is taken in", 20)


def test_a_silent_server_is_passed_over(tmp_path: Path, dns: DnsServer) -> None:
    """Of two DNS servers the first one is silent."""
    app = App(tmp_path, "app")
    with DnsServer() as silent, ending(app) as processes:
        port = app.ready().port
        dns.zones["a.test"] = Zone(["127.0.0.1"])
        silent.zones["a.test"] = Zone(silent=True)
        settings = config(dns, port, "a")
        settings["dns"]["servers"].insert(0, silent.address)
        sidecar = Sidecar(tmp_path, settings)
        processes.append(sidecar)
        sidecar.ready()
        wait_for(lambda: get(f"http://127.0.0.1:{sidecar.port('a')}/")[0] == 200, "the second server is asked")
        assert silent.asked
