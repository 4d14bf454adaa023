"""A real listener on a real port, in this process, with scripted servers behind it and time in the test's hands."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import uvloop

from sidecar.agent.assembly import Context, create_listener
from sidecar.config.agent import Tracing
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog, AccessRecord, SpanRecord
from sidecar.exchange.listener import Listener
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.breaker import CircuitBreaker
from support.accepting import stop_accepting
from support.clock import Clock
from support.patience import PATIENCE
from support.ports import changed

ANY_PORT = Address("127.0.0.1", 0)


def run(main: Callable[[], Coroutine[Any, Any, None]], seconds: float = PATIENCE) -> None:
    """Run a test's coroutine on uvloop; one that hangs fails."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await main()

    uvloop.run(bounded())


async def settle() -> None:
    """Let whatever is in sockets on this host arrive and be worked off."""
    for _ in range(5):
        await asyncio.sleep(0.002)


class _Handle:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Time(Clock):
    """A clock with ``call_at``: what is due happens within :meth:`advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._due: list[tuple[float, int, _Handle]] = []
        self._count = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> _Handle:
        handle = _Handle(callback)
        self._count += 1
        heapq.heappush(self._due, (when, self._count, handle))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            when, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, when)
            if handle.callback is not None:
                handle.callback()
        self.now = end


class Live:
    """A listener for ``config``, bound to a port that the system chooses. Use it with ``async with``."""

    def __init__(
        self, config: Inbound | Upstream, *ports: int, tracing: Tracing | None = None, spans: bool = True
    ) -> None:
        self.config = replace(config, bind=ANY_PORT)
        self.time = Time()
        self.spans: list[SpanRecord] = []
        #: What the access log would have lines of: everything.
        self.records: list[AccessRecord] = []
        self.breaker_states: list[int] = []
        self._ports = ports
        self._tracing = tracing or Tracing(sample=0.0)
        self._record_spans = spans
        self.listener: Listener

    async def __aenter__(self) -> Live:
        context = Context(
            loop=asyncio.get_running_loop(),
            wheel=TimerWheel(self.time.call_at, self.time),
            clock=self.time,
            rng=random.Random(1),
            access_log=AccessLog("all", self.records.append),
            record_span=self.spans.append if self._record_spans else None,
            tracing=self._tracing,
            breaker_changed=self._breaker_changed,
        )
        self.listener = create_listener(context, "up", self.config)
        self.endpoints(*self._ports)
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.stop()
        await settle()

    def _breaker_changed(self, name: str, breaker: CircuitBreaker) -> None:
        self.breaker_states.append(breaker.state)

    def endpoints(self, *ports: int, sidecars: bool = False) -> None:
        """The endpoints from now on; ``sidecars``: that is what they are."""
        self.listener.cluster.update(Instance(host="127.0.0.1", port=port, sidecar=sidecars) for port in ports)

    def reload(self, **changes: Any) -> None:
        """Apply the configuration with these keys changed."""
        self.config = changed(self.config, **changes)
        self.listener.assembly.apply(self.listener, self.config)

    @property
    def port(self) -> int:
        return self.listener.address.port

    @property
    def stats(self) -> Any:
        return self.listener.stats

    def nothing_left(self) -> bool:
        """Whether everything that was taken has been given back."""
        stats = self.stats
        limiters = [f.limiter for f in self.listener.chain.filters if hasattr(f, "limiter")]
        return (
            not stats.active
            and not stats.pending
            and not stats.tunnels
            and not stats.upstream_active
            and not any(e.active for e in self.listener.cluster.endpoints)
            and not any(limiter.active or limiter.pending for limiter in limiters)
        )


class Request(NamedTuple):
    """What an origin got."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    head: bytes


Handler = Callable[[Request], Awaitable[bytes | None]]


def ok(body: bytes = b"ok", *fields: str, status: str = "200 OK") -> bytes:
    """An answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


class Origin:
    """An HTTP server that answers what ``handler`` returns (None: closes without one). Use with ``async with``."""

    def __init__(self, handler: Handler | bytes | None = b"") -> None:
        self.requests: list[Request] = []
        self.handler = handler
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Listen no more, and drop every connection."""
        await stop_accepting(self._server)
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await settle()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called as soon as there is a connection, so that none is unknown to :meth:`stop`."""
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                request = Request(method, target, fields, body, head)
                self.requests.append(request)
                handler = self.handler
                answer = await handler(request) if callable(handler) else handler
                if answer is None:
                    writer.transport.abort()
                    return
                writer.write(answer or ok())
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class Answer(NamedTuple):
    """What a client got. ``status`` 0: nothing."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sidecar's own code, or nothing."""
        return self.fields.get("x-sidecar-error", "")


async def fetch(
    port: int, target: str = "/", method: str = "GET", fields: Sequence[str] = (), body: bytes = b""
) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"{method} {target} HTTP/1.1", "host: t", *fields]
        if body:
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return await read_answer(reader)
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """An answer with a Content-Length."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
    except (asyncio.IncompleteReadError, OSError):
        return Answer(0, {}, b"")
    return Answer(int(first.split(" ")[1]), fields, body)
