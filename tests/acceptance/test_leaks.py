"""Nothing is left behind, whoever leaves and when; nothing grows with what a peer sends.

``SIDECAR_SOAK=1`` makes the numbers twelve and four times as large.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.instance import Instance
from sidecar.core.limits import Limits
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.patience import until
from support.plane import Peer, Plane, plane, run
from support.processes import free_port, wait_for

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
MIB = 1 << 20
REQUESTS = 100_000 if SOAK else 8_000
SILENT = 10_000
#: A quarter of a gigabyte shows the same as a whole one: the buffers are full after the first megabytes.
BODY = (1024 if SOAK else 256) * MIB


class Sidecar:
    """``python -m sidecar run`` with one upstream; ``port`` leads to it."""

    def __init__(self, folder: Path, endpoint: int, policies: dict[str, Any]) -> None:
        self.port, admin = free_port(), free_port()
        self._url = f"http://127.0.0.1:{admin}"
        upstream = {"bind": f"127.0.0.1:{self.port}", "endpoints": [f"127.0.0.1:{endpoint}"], **policies}
        config = {
            "service": {"name": "leaks"},
            "registry": "none",
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "log": {"level": "warning"},
            "upstreams": {"up": upstream},
        }
        path = folder / "sidecar.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        self._process = subprocess.Popen([sys.executable, "-m", "sidecar", "run", str(path)], cwd=path.parent)
        wait_for(lambda: self._process.poll() is not None or self._ready(), "the sidecar is ready")
        assert self._process.poll() is None, "the sidecar has stopped"

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def rss(self) -> int:
        """Resident memory, bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def clients(self) -> int:
        """How many sockets it holds."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def sidecar(folder: Path, endpoint: int, **policies: Any) -> Iterator[Sidecar]:
    it = Sidecar(folder, endpoint, policies)
    try:
        yield it
    finally:
        it.stop()


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.costly
def test_ten_thousand_silent_clients_keep_nobody_out(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this needs {wanted} open files for one process, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ok)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await asyncio.wait_for(reader.readexactly(len(ok)), 180)
        writer.close()
        await writer.wait_closed()
        return answer

    def crowd(port: int) -> list[socket.socket]:
        """Every second one has begun a head."""
        held = []
        for n in range(SILENT):
            held.append(socket.create_connection(("127.0.0.1", port)))
            if n % 2:
                held[-1].send(b"GET /slow HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        return held

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with sidecar(tmp_path, server.sockets[0].getsockname()[1], timeout={"head": "60s"}) as it:
            assert await ask(it.port) == ok
            files = it.clients()
            rss = []
            for _ in range(2):
                held = await asyncio.to_thread(crowd, it.port)
                await until(lambda: it.clients() > files + SILENT - 10, "all are in")
                assert await ask(it.port) == ok
                rss.append(it.rss())
                for sock in held:
                    sock.close()
                await until(lambda: it.clients() <= files + 2, "all are out")
            print(f"\n{SILENT} silent clients: {rss[0] // MIB} MiB, the second time {rss[1] // MIB} MiB")
            # What the first crowd took was free for the second.
            assert rss[1] - rss[0] < 8 * MIB
        server.close()

    run(main())


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_slow_reader_stops_the_writer(tmp_path: Path, way: str) -> None:
    piece = bytes(MIB)

    async def main() -> None:
        reading = asyncio.Event()
        served: asyncio.Queue[int] = asyncio.Queue()
        written = 0

        async def write(writer: asyncio.StreamWriter) -> None:
            nonlocal written
            while written < BODY:
                writer.write(piece)
                await writer.drain()
                written += len(piece)

        async def read(reader: asyncio.StreamReader) -> int:
            await reading.wait()
            size = 0
            while size < BODY:
                data = await reader.read(MIB)
                assert data, f"it ends after {size} bytes"
                size += len(data)
            return size

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if way == "up":
                served.put_nowait(await read(reader))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY)
                await write(writer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with sidecar(tmp_path, server.sockets[0].getsockname()[1]) as it:
            before = it.rss()
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            if way == "up":
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BODY)
                task: asyncio.Task[Any] = asyncio.create_task(write(writer))
            else:
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                task = asyncio.create_task(read(reader))
            await until(lambda: written > 0, "something was written")
            last = -1
            while last != written:  # until it stands still
                last = written
                await asyncio.sleep(0.3)
            assert written < 64 * MIB, "nothing stops the writer"
            peak = it.rss()
            reading.set()
            while not task.done():
                peak = max(peak, it.rss())
                await asyncio.sleep(0.02)
            await task
            if way == "up":
                assert await served.get() == BODY
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            print(f"\n{BODY // MIB} MiB {way}: {(peak - before) / MIB:.1f} MiB more")
            assert peak - before < 16 * MIB
            writer.close()
            await writer.wait_closed()
        server.close()

    run(main())


# -- counts ---------------------------------------------------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
#: What clients send before they leave, and how they are answered.
REQUEST = [
    b"", b"G", b"GET / HTTP/1.1\r\nHost:", GET, GET, GET, GET * 3, GET + b"GET", PUT, PUT + b"01234",
    PUT + b"0123456789", b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    UPGRADE, UPGRADE + b"early",
    b"GET / HTTP/1.0\r\n\r\n", b"nonsense\r\n\r\n", PUT.replace(b"10", b"99999"), GET.replace(b"GET", b"HEAD"),
]  # fmt: skip
ANSWER = [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"HTTP/1.1 200 OK\r\n\r\nuntil",
    b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\nhello", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 20", b"nonsense\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
]  # fmt: skip


async def mix(it: Plane, rng: random.Random, requests: int) -> None:
    """Clients and upstreams that do anything at any time."""
    loop = it.loop
    accepted: set[Peer] = set()

    class Server(Peer):
        """Answers whatever comes, sometimes, and leaves, sometimes."""

        finished = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            accepted.add(self)

        def connection_lost(self, exc: Exception | None) -> None:
            accepted.discard(self)

        def data_received(self, data: bytes) -> None:
            if self.finished:
                return
            if rng.random() < 0.8:
                self.send(rng.choice(ANSWER))
            if rng.random() < 0.2:
                self.finished = True
                rng.choice([self.close, self.reset, self.finish])()

    ports = []
    servers = []
    for _ in range(2):
        server = await loop.create_server(Server, "127.0.0.1", 0)
        servers.append(server)
        ports.append(server.sockets[0].getsockname()[1])
    instances = [Instance(host="127.0.0.1", port=port) for port in ports]
    it.listener.cluster.update(instances)

    async def one() -> None:
        client = await it.connect()
        for _ in range(rng.randrange(1, 4)):
            if client.transport.is_closing():
                break
            client.send(rng.choice(REQUEST))
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        how = rng.choice([client.close, client.reset, client.finish, client.transport.abort])
        if not client.transport.is_closing():  # the sidecar may have been first
            how()

    try:
        done = 0
        while done < requests:
            await asyncio.gather(*(one() for _ in range(80)))
            done += 80
            it.advance(rng.random() * 0.5)
            if rng.random() < 0.05:
                it.listener.cluster.update(rng.sample(instances, rng.choice([0, 1, 1, 2, 2, 2])))
            for client in it.clients[:-100]:
                client.transport.abort()
            del it.clients[:-100]
        it.listener.cluster.update(instances)

        def quiet() -> bool:
            it.advance(10)
            return not it.stats.client_connections

        # What waits for a peer that will never speak again does so for its time; one wait's end may be another's
        # beginning.
        await until(quiet, "everything that waited has ended")
    finally:  # uvloop waits for ever for what is left open
        for server in servers:
            server.close()
        for peer in accepted:
            peer.transport.abort()
    for endpoint in it.listener.cluster.endpoints:
        assert endpoint.active == 0


@pytest.mark.costly
def test_clients_that_leave_at_every_stage_leave_nothing_behind() -> None:
    seed = random.SystemRandom().randrange(1 << 32) if SOAK else 7

    async def main() -> None:
        settings: dict[str, Any] = {
            "retry": RetrySettings(initial_delay=0.2, max_delay=1),
            "bulkhead": BulkheadSettings(max_requests=60, max_connections=70, max_pending=30, pending_timeout=1),
            "timeout": TimeoutSettings(request=3, idle=5, head=2, keepalive=1),
            "limits": Limits(body=1000),
            "circuit_breaker": None,
        }
        async with plane(upstreams=0, **settings) as it:
            await mix(it, random.Random(seed), REQUESTS)
        statuses: dict[int, int] = {}
        for (_, status), count in it.stats.requests.items():
            statuses[status] = statuses.get(status, 0) + count
        print(f"\nseed {seed}: {statuses}, retries {dict(it.stats.retries)}, {dict(it.stats.rejected)}")

    run(main())
