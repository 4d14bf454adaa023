"""An HTTP port without sockets, for tests that read like a dialogue.

    stage = Stage(retry=None)
    client = stage.client()
    client.asks("GET /x")
    upstream = stage.upstream()
    assert upstream.hears().target == "/x"
    upstream.answers(200, b"hello")
    assert client.gets().body == b"hello"
    stage.over()

Both peers are played by the test; the listener, its chain, its connections and its exchanges are the real ones, on
transports, a loop and a clock of the test's own. Nothing happens but what a test does, and all of it at once.
:meth:`Stage.over` sends everybody away and finds that nothing is left.

A single filter, too, is asked about real exchanges: :meth:`Stage.exchange` makes one, and :meth:`Stage.tries` lets an
attempt of it begin.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple, TypeVar, cast

from sidecar.agent.assembly import Context, create_listener
from sidecar.agent.faults import FaultBoard
from sidecar.config.agent import Tracing
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.limits import Limits
from sidecar.core.records import AccessLog, AccessRecord, SpanRecord, Stories
from sidecar.endpoints.endpoint import Endpoint
from sidecar.exchange.attempt import Attempt
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.filter import Filter
from sidecar.exchange.listener import Listener
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.blocks import RequestBlock, ResponseBlock
from sidecar.http.h1.head import parse_request, parse_response
from sidecar.http.h1.server import Downstream
from sidecar.http.listener import HttpListener
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.breaker import CircuitBreaker
from sidecar.tcp.relay import Client as TcpClient
from support import loop
from support.loop import FakeLoop, FakeTransport
from support.ports import changed, inbound_of, upstream_of

F = TypeVar("F", bound=Filter)

_BIND = Address("127.0.0.1", 0)


def request(text: str = "GET /x HTTP/1.1", *fields: str) -> RequestBlock:
    """A parsed request head; ``host`` is added."""
    lines = [text, "host: t", *fields, "", ""]
    return parse_request("\r\n".join(lines).encode("latin-1"), Limits())


def answer(status: int, *fields: str) -> ResponseBlock:
    """A parsed answer's head, of a sidecar."""
    lines = [f"HTTP/1.1 {status} x", *fields, "", ""]
    return parse_response("\r\n".join(lines).encode("latin-1"), Limits(), "GET", peer=True)


class Message(NamedTuple):
    """A request or an answer: its first line's parts, its fields by lower-case name, its body, and its head as it
    came."""

    first: list[str]
    fields: dict[str, str]
    body: bytes
    head: bytes

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def target(self) -> str:
        return self.first[1]

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def error(self) -> str:
        """The sidecar's own code, or nothing."""
        return self.fields.get("x-sidecar-error", "")


class _Peer(loop.Peer):
    """An end of an HTTP/1.1 connection."""

    def __init__(self, fake: FakeLoop, transport: FakeTransport) -> None:
        super().__init__(fake, transport)
        self._unread = b""

    def message(self) -> Message | None:
        """The next whole message with a Content-Length or none, if it has come."""
        self._unread += self.heard()
        end = self._unread.find(b"\r\n\r\n") + 4
        if end == 3:
            return None
        head = self._unread[:end]
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        whole = end + int(fields.get("content-length", 0))
        if len(self._unread) < whole:
            return None
        body, self._unread = self._unread[end:whole], self._unread[whole:]
        return Message(first.split(" ", 2), fields, body, head)

    def next(self) -> Message:
        found = self.message()
        assert found is not None, f"no whole message has come: {self._unread!r}, gone: {self.transport.gone}"
        return found

    def silent(self) -> bool:
        """Nothing has come that was not looked at."""
        self._unread += self.heard()
        return not self._unread


class Client(_Peer):
    """Who asks."""

    def asks(self, line: str = "GET /", *fields: str, body: bytes = b"") -> None:
        """Send a request: ``line`` is its method and target."""
        lines = [f"{line} HTTP/1.1", "host: t", *fields]
        if body:
            lines.append(f"content-length: {len(body)}")
        self.says("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def gets(self) -> Message:
        """The next answer, which has to have come."""
        return self.next()

    def gets_nothing(self) -> bool:
        """No part of an answer has come."""
        return self.silent()


class Server(_Peer):
    """Who is asked: the upstream's end of a connection."""

    def hears(self) -> Message:
        """The next request, which has to have come."""
        return self.next()

    def answers(self, status: int = 200, body: bytes = b"ok", *fields: str) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *fields, "", ""]
        self.says("\r\n".join(lines).encode("latin-1") + body)


class Stage:
    """A port of that protocol with everybody who has to do with it. ``policies`` are those of an upstream's or, if it
    is ``inbound``, of the service's configuration; or that is given whole. ``spans``: they are recorded;
    ``why``: so are stories. ``shared`` makes limits that sidecars share; ``board`` has the faults that
    are put for a while."""

    def __init__(
        self,
        config: Inbound | Upstream | None = None,
        *,
        inbound: bool = False,
        protocol: str = "http",
        endpoints: int = 1,
        tracing: Tracing | None = None,
        spans: bool = True,
        why: bool = False,
        shared: Any = None,
        board: FaultBoard | None = None,
        log: AccessLog | None = None,
        **policies: Any,
    ) -> None:
        self.loop = FakeLoop()
        self.loop.on_connection = self._accepted
        self.wheel = TimerWheel(self.loop.call_at, self.loop)
        self.clients: list[Client] = []
        #: The upstream's ends of connections, as they were accepted.
        self.accepted: list[Server] = []
        self.spans: list[SpanRecord] = []
        self.records: list[AccessRecord] = []
        self.stories: list[dict[str, Any]] = []
        self.breaker_states: list[int] = []
        if config is None:
            own = {"bind": _BIND, "protocol": protocol, **policies}
            config = inbound_of(**own) if inbound else upstream_of(name="up", **own)
        self.config = config
        context = Context(
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            wheel=self.wheel,
            clock=self.loop,
            rng=random.Random(1),
            access_log=log or AccessLog("all", self.records.append),
            record_span=self.spans.append if spans else None,
            tracing=tracing or Tracing(sample=0.0),
            breaker_changed=self._breaker_changed,
            shared=shared,
            stories=Stories(self.stories.append, enabled=why),
            listener_of=lambda name: self.others.get(name),
            faults=board or FaultBoard(),
        )
        self._context = context
        #: Other upstreams of the same sidecar: see :meth:`other`.
        self.others: dict[str, Listener] = {}
        self.listener: Listener = create_listener(context, "up", self.config)
        self.stats = self.listener.stats
        self.endpoints(endpoints)

    def endpoints(self, count: int, sidecars: bool = False) -> None:
        """The endpoints from now on, 10.0.0.1 and ports from 1; ``sidecars``: that is what they are."""
        ports = range(1, count + 1)
        self.listener.cluster.update(Instance(host="10.0.0.1", port=port, sidecar=sidecars) for port in ports)

    def other(self, name: str, endpoints: int = 1, **policies: Any) -> Listener:
        """Another upstream, whose endpoints are 10.0.0.2 and ports from 1."""
        listener = create_listener(self._context, name, upstream_of(name=name, bind=_BIND, **policies))
        listener.cluster.update(Instance(host="10.0.0.2", port=port) for port in range(1, endpoints + 1))
        self.others[name] = listener
        return listener

    def reload(self, **changes: Any) -> None:
        """Apply the configuration with these keys changed."""
        self.config = changed(self.config, **changes)
        self.listener.assembly.apply(self.listener, self.config)

    # -- the dialogue --------------------------------------------------------------------------------------------------

    def client(self, ip: str = "10.1.1.1") -> Client:
        """A new client, which has said nothing yet."""
        _, client = self._connect(ip)
        return client

    def asks(self, line: str = "GET /", *fields: str, body: bytes = b"", ip: str = "10.1.1.1") -> Client:
        """A new client that has sent this request."""
        client = self.client(ip)
        client.asks(line, *fields, body=body)
        return client

    def upstream(self) -> Server:
        """The upstream's end of the first connection on which there is something that it has not heard."""
        asked = self.asked()
        assert asked, "the upstream was asked nothing"
        return asked[0]

    def asked(self) -> list[Server]:
        """The upstream's ends of all such connections that stand, in the order in which they were made."""
        self.loop.settle()
        return [it for it in self.accepted if it.connected and not it.silent()]

    def advance(self, seconds: float) -> None:
        """Let time pass, timers included."""
        self.loop.run_until(self.loop.now + seconds)

    def _connect(self, ip: str) -> tuple[Any, Client]:
        protocol: Any = self.listener.protocol()
        transport = FakeTransport(self.loop, protocol, ip)
        client = Client(self.loop, transport)
        self.clients.append(client)
        protocol.connection_made(cast(asyncio.Transport, transport))
        self.loop.settle()
        return protocol, client

    def _accepted(self, protocol: Any, transport: FakeTransport) -> None:
        self.accepted.append(Server(self.loop, transport))

    def _breaker_changed(self, name: str, breaker: CircuitBreaker) -> None:
        self.breaker_states.append(breaker.state)

    # -- a filter alone ------------------------------------------------------------------------------------------------

    def filter(self, kind: type[F]) -> F:
        """The filter of that class in the port's own chain."""
        return next(it for it in self.listener.chain.filters if isinstance(it, kind))

    def exchange(self, head: RequestBlock | None = None, ip: str = "10.1.1.1") -> HttpExchange:
        """An exchange for that head that no filter has seen, with half a minute until its deadline."""
        protocol, _ = self._connect(ip)
        assert isinstance(protocol, Downstream)
        assert isinstance(self.listener, HttpListener)
        head = head or request()
        x = HttpExchange(protocol, self.listener, self.listener.pool, head, self.listener.route(head), self.loop())
        x.deadline = x.started + 30.0
        return x

    def tcp_exchange(self) -> Exchange:
        """That of a new TCP client, under way."""
        protocol, _ = self._connect("10.1.1.1")
        assert isinstance(protocol, TcpClient)
        return protocol.exchange

    def tries(self, x: Exchange, number: int = 0) -> Endpoint:
        """An attempt of the exchange at that endpoint begins."""
        x.leave_endpoint()
        endpoint = self.listener.cluster.endpoints[number]
        endpoint.begin()
        x.attempt = Attempt(endpoint)
        x.attempt.permit, x.permit = x.permit, 0
        x.attempts += 1
        return endpoint

    # -- the end -------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Everything that must be zero when nobody is there."""
        stats = self.stats
        limiters = [it for f in self.listener.chain.filters for it in _limiters(f)]
        return {
            "clients": stats.client_connections,
            "active": stats.active,
            "pending": stats.pending,
            "tunnels": stats.tunnels,
            "upstream": stats.upstream_active,
            "endpoints": sum(endpoint.active for endpoint in self.listener.cluster.endpoints),
            "slots": sum(limiter.active for limiter in limiters),
            "waiting": sum(limiter.pending for limiter in limiters),
            "tasks": len(self.loop.tasks),
        }

    def nothing_left(self) -> bool:
        """Whether everything that was taken has been given back, by all but clients that are still connected."""
        self.loop.settle()
        counts = self.counts()
        del counts["clients"]
        return not any(counts.values())

    def over(self) -> None:
        """Everybody leaves, if they have not; nothing may be left, kept connections and timers included."""
        for peer in (*self.clients, *self.accepted):
            if not peer.transport.gone:
                peer.transport.lose(ConnectionResetError())
                self.loop.settle()
        left = {what: number for what, number in self.counts().items() if number}
        assert not left, left
        assert not any(it.stats.active or it.stats.upstream_idle for it in self.others.values())
        assert self.stats.upstream_idle == 0
        assert not any(self.wheel._buckets.values()), "timers are left"


def _limiters(it: Filter) -> list[Any]:
    return [getattr(it, name) for name in ("limiter", "tunnels") if hasattr(it, name)]
