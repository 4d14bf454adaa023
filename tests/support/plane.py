"""A real HTTP listener between raw sockets, for tests that say byte by byte what each side does.

    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        upstream = await plane.upstreams[0].accepted()
        await upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        assert (await client.answer()).body == b"ok"

    in_plane(test, retry=None)

Sockets and loop are real (uvloop, port 0); policies' time stands still until :meth:`Plane.advance`. Whatever a test
did, at its end everything is closed and every count must be back at zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar, cast

import uvloop

from sidecar.agent.assembly import Context, create_listener
from sidecar.config.agent import Tracing
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog
from sidecar.filters.bulkhead import Bulkhead
from sidecar.http.listener import HttpListener
from sidecar.net.sockets import reset
from sidecar.net.wheel import TimerWheel
from support.clock import Loop
from support.patience import PATIENCE, until
from support.ports import inbound_of, upstream_of

T = TypeVar("T")


class Answer(NamedTuple):
    """An answer as a client reads it. ``fields`` by lower-case name, ``body`` without chunk framing."""

    status: int
    head: bytes
    fields: dict[str, str]
    body: bytes


class Peer(asyncio.Protocol):
    """One end of a connection in the hands of a test: a client, or what an upstream accepted."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray()
        #: Everything that was ever received.
        self.received = bytearray()
        self.ended = False
        self.lost = False
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return True  # stay open for writing

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.lost = True
        self.error = exc
        self._changed.set()

    async def wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not in time: {what}; unread: {bytes(self.buffer)!r}, ended: {self.ended}") from None

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        await self.wait(lambda: len(self.buffer) >= size, f"{size} bytes")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def read_until(self, end: bytes) -> bytes:
        await self.wait(lambda: end in self.buffer, f"{end!r}")
        return await self.read(self.buffer.index(end) + len(end))

    async def read_all(self) -> bytes:
        """Up to the peer's EOF, which must not be a reset."""
        await self.wait(lambda: self.ended, "the end")
        assert self.error is None, self.error
        return await self.read(len(self.buffer))

    async def was_reset(self) -> None:
        await self.wait(lambda: self.lost, "a reset")
        assert self.error is not None, "it was closed in an orderly way"

    async def gone(self) -> None:
        """The other side has closed, one way or the other."""
        await self.wait(lambda: self.ended, "the end")

    async def head(self) -> bytes:
        return await self.read_until(b"\r\n\r\n")

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer (or interim answer)."""
        head = await self.head()
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif "transfer-encoding" in fields:
            body = await self.chunks()
        elif "content-length" in fields:
            body = await self.read(int(fields["content-length"]))
        else:
            body = await self.read_all()
        return Answer(status, head, fields, body)

    async def chunks(self) -> bytes:
        """A chunked body without trailers."""
        body = b""
        while size := int(await self.read_until(b"\r\n"), 16):
            body += await self.read(size)
            assert await self.read(2) == b"\r\n"
        assert await self.read(2) == b"\r\n"
        return body

    def finish(self) -> None:
        """Half-close: no more will be sent."""
        self.transport.write_eof()

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        reset(self.transport)


class ScriptedUpstream:
    """A listening socket; the test takes each connection from :meth:`accepted` and plays the server on it."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self._taken = 0

    async def start(self) -> None:
        def accept() -> Peer:
            self.peers.append(Peer())
            return self.peers[-1]

        self._server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def ready(self) -> bool:
        """There is a connection that was not taken yet, with something on it."""
        return len(self.peers) > self._taken and bool(self.peers[self._taken].received)

    async def accepted(self) -> Peer:
        """The next connection, once something was sent on it."""
        await until(self.ready, "a connection")
        self._taken += 1
        return self.peers[self._taken - 1]

    def stop(self) -> None:
        self._server.close()
        for peer in self.peers:
            if hasattr(peer, "transport"):
                peer.transport.abort()


class _Lines:
    """Takes the place of the log's writer."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def put(self, record: Any) -> None:
        self.records.append(record)


class Plane:
    """A listener, its upstreams and its clients. ``clock`` is the time of all policies."""

    listener: HttpListener

    def __init__(self, config: Upstream | Inbound, upstreams: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = Loop()
        self.wheel = TimerWheel(self.clock.call_at, self.clock)
        self.upstreams = [ScriptedUpstream() for _ in range(upstreams)]
        self.clients: list[Peer] = []
        self.lines = _Lines()
        self.errors: list[dict[str, Any]] = []
        context = Context(
            loop=self.loop,
            wheel=self.wheel,
            clock=self.clock,
            rng=random.Random(1),
            access_log=AccessLog("all", self.lines.put),
            record_span=None,
            tracing=Tracing(sample=0),
            breaker_changed=lambda name, breaker: None,
        )
        self.context = context
        self.listener = cast(HttpListener, create_listener(context, "up", config))
        self.stats = self.listener.stats

    async def start(self) -> None:
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        for upstream in self.upstreams:
            await upstream.start()
        self.endpoints()
        await self.listener.start()

    def endpoints(self, sidecars: bool = False) -> None:
        """Let the upstreams be the endpoints; ``sidecars``: that is what they are."""
        self.listener.cluster.update(Instance(host="127.0.0.1", port=u.port, sidecar=sidecars) for u in self.upstreams)

    @property
    def upstream(self) -> ScriptedUpstream:
        return self.upstreams[0]

    async def connect(self) -> Peer:
        """A new client."""
        address = self.listener.address
        _, client = await self.loop.create_connection(Peer, address.host, address.port)
        self.clients.append(client)
        return client

    async def accepted(self) -> Peer:
        """The next connection to whichever upstream."""
        await until(lambda: any(u.ready() for u in self.upstreams), "a connection to any upstream")
        return await next(u for u in self.upstreams if u.ready()).accepted()

    async def request(self, data: bytes) -> tuple[Peer, Peer]:
        """A new client that sends this, and the upstream's end of what came of it."""
        client = await self.connect()
        client.send(data)
        return client, await self.upstream.accepted()

    def advance(self, seconds: float) -> None:
        """Let time pass, timers included."""
        self.clock.run_until(self.clock.now + seconds)

    def filed(self) -> int:
        """Timers that are set."""
        return sum(len(bucket) for bucket in self.wheel._buckets.values())

    async def settled(self) -> None:
        """Everybody leaves; then nothing may be left."""
        for client in self.clients:
            reset(client.transport)
        stats = self.stats
        await until(lambda: not stats.client_connections, "all clients are gone")
        await until(lambda: not stats.active, f"no exchange is active ({stats.active})")
        await until(lambda: not stats.upstream_active, f"no upstream connection in use ({stats.upstream_active})")
        await until(lambda: self.listener.pool.total == stats.upstream_idle, "no connection is being made")
        assert (stats.pending, stats.tunnels) == (0, 0)
        for endpoint in self.listener.cluster.endpoints:
            assert endpoint.active == 0, endpoint
        for limiter in self.limiters():
            assert (limiter.active, limiter.pending) == (0, 0)
        await self.listener.stop()
        await until(lambda: not self.listener.pool.total, "the pool is empty")
        assert stats.upstream_idle == 0
        assert self.listener.pool._idle == {}
        await until(lambda: self.filed() == 0, "no timer is set")
        await until(lambda: len(asyncio.all_tasks()) == 1, f"no task is left: {asyncio.all_tasks()}")
        assert not self.errors, self.errors

    async def close(self) -> None:
        """Close everything, whatever state it is in."""
        await self.listener.stop()
        for upstream in self.upstreams:
            upstream.stop()
        for client in self.clients:
            client.transport.abort()
        await asyncio.sleep(0.01)

    def limiters(self) -> list[Any]:
        routes = self.listener.routes
        chains = [self.listener.chain, *(route[-1].chain for route in (routes._routes if routes else ()))]
        bulkheads = [f for chain in chains for f in chain.filters if isinstance(f, Bulkhead)]
        return [limiter for it in bulkheads for limiter in (it.limiter, it.tunnels)]


@contextlib.asynccontextmanager
async def plane(*, upstreams: int = 1, inbound: bool = False, **policies: Any) -> AsyncIterator[Plane]:
    """A running :class:`Plane`. ``policies`` are those of :class:`model.Upstream` or :class:`model.Inbound`."""
    bind = Address("127.0.0.1", 0)
    config = inbound_of(bind=bind, **policies) if inbound else upstream_of(name="up", bind=bind, **policies)
    it = Plane(config, upstreams)
    await it.start()
    try:
        yield it
        await it.settled()
    finally:
        await it.close()  # uvloop waits for ever for what is left open


def in_plane(test: Callable[[Plane], Awaitable[None]], **settings: Any) -> None:
    """Run a test in a plane of its own; arguments as for :func:`plane`."""

    async def main() -> None:
        async with plane(**settings) as it:
            await test(it)

    run(main())


def run(main: Coroutine[Any, Any, T]) -> T:
    """As :func:`asyncio.run`, on the loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def silent_port() -> Any:
    """A port that takes no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]
