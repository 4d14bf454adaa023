"""A port of a sidecar: the real listener of a configuration, between virtual clients and virtual endpoints."""

from __future__ import annotations

import errno
import functools
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.agent.assembly import Context, create_listener
from sidecar.agent.rehearsal.clockwork import Nowhere
from sidecar.config.load import load_text
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.instance import Instance
from sidecar.core.limits import Limits
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.attempt import Attempt
from sidecar.exchange.phases import CONNECTING, ENDED, SENT
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.head import parse_request, parse_response
from sidecar.http.listener import HttpListener
from sidecar.http.rehearsed import RehearsedClient, RehearsedConnection, RehearsedPool
from sidecar.simulate.world import LATENCY, Answer, Place, World

#: Nothing here is hostile.
_LIMITS: Final = Limits()
#: The port at which a service's own sidecar listens.
INBOUND: Final = 15001


@functools.cache
def _read(policies: str, inbound: bool) -> Inbound | Upstream:
    """The configuration of a port with those policies, read as from a file. Raises :class:`ConfigError`."""
    own = textwrap.indent(textwrap.dedent(policies), "    ")
    if inbound:
        text = f"service: {{name: simulated, app: 127.0.0.1:8080}}\ninbound:\n    bind: 0.0.0.0:15001\n{own}"
        found = load_text(text, "scenario.yaml", {}).inbound
        assert found is not None
        return found
    head = "service: {name: simulated}\nupstreams:\n  there:\n    bind: 127.0.0.1:9000\n    endpoints: [10.0.0.1:1]\n"
    return load_text(head + own, "scenario.yaml", {}).upstreams["there"]


class Port:
    """An upstream's port, or an inbound one, with ``policies`` as in a configuration file (YAML, what stands below the
    upstream's name). It is a :class:`~sidecar.simulate.world.Place`, too."""

    def __init__(
        self, world: World, name: str, policies: str = "", *, inbound: bool = False, sidecar: Context | None = None
    ) -> None:
        """``sidecar``: the one that it is a port of, where that has others, too."""
        self.world = world
        self.accepts: bool | None = True
        self.config = _read(policies, inbound)
        context = sidecar or world.sidecar()
        listener = create_listener(context, name, self.config)
        assert isinstance(listener, HttpListener)
        self.listener: HttpListener = listener
        listener.pool = RehearsedPool(context.loop, context.wheel, context.clock, listener.stats)
        listener.pool.asked = self._dial
        #: Called for each try that needs a connection, be there one or not.
        self.on_try: Callable[[], None] | None = None

    @property
    def cluster(self) -> Cluster:
        return self.listener.cluster

    def filter(self, name: str) -> Any:
        """The filter of that name in the port's own chain."""
        return next(it for it in self.listener.chain.filters if it.name == name)

    def leads_to(self, addresses: Iterable[tuple[str, int]], sidecars: bool = False) -> None:
        """Its endpoints from now on; ``sidecars``: that is what stands there."""
        self.cluster.update(Instance(host=host, port=port, sidecar=sidecars) for host, port in addresses)

    # -- those who ask -------------------------------------------------------------------------------------------------

    def ask(self, request: bytes, answer: Answer, ip: str = "10.9.9.9") -> Call:
        """Ask through this port; the answer comes later, never before this returns."""
        call = Call(self.world, answer)
        listener = self.listener
        head = parse_request(request, _LIMITS)
        client = RehearsedClient(ip, call, listener.wheel, None)
        x = HttpExchange(client, listener, listener.pool, head, listener.route(head), self.world.loop.time())
        call.exchange = client.exchange = x
        x.run()
        return call

    def leave(self, asked: Any) -> None:
        """The client of that call waits no longer."""
        x = asked.exchange
        asked.exchange = None
        if x is not None and x.phase != ENDED:
            x.client_gone()

    # -- where it asks -------------------------------------------------------------------------------------------------

    def _dial(self, x: HttpExchange, attempt: Attempt) -> None:
        """An attempt wants a connection."""
        if self.on_try is not None:
            self.on_try()
        endpoint = attempt.endpoint
        place = self.world.places.get((endpoint.host, endpoint.port))
        if place is None or place.accepts is not None:
            self.world.loop.call_later(2 * LATENCY, self._dialled, x, attempt, place)

    def _dialled(self, x: HttpExchange, attempt: Attempt, place: Place | None) -> None:
        if attempt not in (x.attempt, x.rival) or attempt.conn is not None or x.phase not in (CONNECTING, SENT):
            return
        if place is None or not place.accepts:
            x.connect_failed(attempt, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
        else:
            line = Line(self.world, place, x, attempt)
            x.connected(attempt, line.conn, self.world.loop.time())


def beside(world: World, host: str, policies: str = "", sidecar: Context | None = None) -> tuple[str, int]:
    """Have a sidecar stand beside the app at that host, with such policies of its inbound port, and return the address
    of that port."""
    port = Port(world, host, policies, inbound=True, sidecar=sidecar)
    port.leads_to([(host, 80)])
    address = (host, INBOUND)
    world.places[address] = port
    return address


class Call(Nowhere):
    """A client's connection to a port: collects what is written to it, and hands it on when the exchange is over."""

    __slots__ = ("_answer", "_parts", "_world", "exchange")

    def __init__(self, world: World, answer: Answer) -> None:
        self._world = world
        self._answer: Answer | None = answer
        self._parts: list[bytes] = []
        self.exchange: HttpExchange | None = None

    def write(self, data: Any) -> None:
        self._parts.append(data)

    def close(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and self.exchange is not None:
            self._world.loop.call_later(LATENCY, answer, b"".join(self._parts))
            self.exchange = None


class Line(Nowhere):
    """A connection from a port to a place."""

    __slots__ = ("_asked", "_attempt", "_open", "_place", "_world", "_x", "conn")

    def __init__(self, world: World, place: Place, x: HttpExchange, attempt: Attempt) -> None:
        self._world = world
        self._place = place
        self._x = x
        self._attempt = attempt
        self._open = True
        self._asked: object = None
        self.conn = RehearsedConnection(self)

    def write(self, data: Any) -> None:
        self._world.loop.call_later(LATENCY, self._arrived, data)

    def close(self) -> None:
        self._open = False
        asked, self._asked = self._asked, None
        if asked is not None:
            self._place.leave(asked)

    def _arrived(self, data: bytes) -> None:
        if self._open:
            self._asked = self._place.ask(data, self._answered)

    def _answered(self, data: bytes) -> None:
        self._asked = None
        x, attempt, conn = self._x, self._attempt, self.conn
        if not self._open or attempt.conn is not conn or x.phase != SENT:
            return
        if not data:
            x.lost(attempt, conn, False)
            return
        end = data.index(b"\r\n\r\n") + 4
        head = parse_response(data[:end], _LIMITS, x.method, attempt.endpoint.sidecar)
        x.answered(attempt, conn, head, data[end:])
