"""What every listener has: an address, the connections it accepted, and what its exchanges need."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.core.address import Address
from sidecar.core.limits import Limits
from sidecar.endpoints.load import Reporter
from sidecar.exchange.times import Times
from sidecar.net.listen import Acceptor
from sidecar.net.shortage import SHORTAGE
from sidecar.net.sockets import reset, set_keepalive
from sidecar.resilience.given_up import GivenUp

if TYPE_CHECKING:
    from sidecar.core.stats import ListenerStats
    from sidecar.endpoints.cluster import Cluster
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.filter import Chain
    from sidecar.exchange.routes import Route
    from sidecar.net.wheel import TimerWheel
    from sidecar.resilience.breaker import CircuitBreaker

#: What to do about the usual reasons why an address cannot be bound.
_HINTS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another bind",
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.EACCES: "this user may not; choose a port from 1024 up",
}

#: Seconds between two searches for idle connections, when the first has found too few.
SEARCH_SECONDS: Final = 0.1
#: Seconds of idleness after which a connection may be given up for the sake of others: a request that is on its way
#: has arrived by then.
REST_SECONDS: Final = 1.0
#: Connections that there was no room for and that are still being told so, at most.
MAX_REFUSED: Final = 64


class ListenerError(Exception):
    """A listener could not be opened; the text says which, where and why."""


class Assembly(Protocol):
    """Builds the chains of a listener."""

    def apply(self, listener: Any, config: Any) -> None:
        """Give the listener the chains for another configuration."""
        ...


class Connection(Protocol):
    """An accepted connection."""

    transport: asyncio.Transport

    @property
    def idle(self) -> bool:
        """No exchange is under way on it."""
        ...

    @property
    def idle_since(self) -> float:
        """The listener's time since when it is."""
        ...

    def close(self) -> None: ...
    def abort(self) -> None: ...


class Listener:
    """One bound address. ``name`` is the upstream's, inbound the service's own; ``new_request_id`` makes ids for what
    is refused before it has one. Chains are replaced as a whole on reload; what is under way keeps the one it began
    with."""

    #: What an exchange gets; for HTTP, one that no other route matches. Set by the assembly, as are ``limits``.
    default_route: Route
    limits: Limits
    assembly: Assembly

    def __init__(
        self,
        *,
        name: str,
        bind: Address,
        stats: ListenerStats,
        cluster: Cluster,
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
        clock: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self.name = name
        self.bind = bind
        self.stats = stats
        self.cluster = cluster
        self.loop = loop
        self.wheel = wheel
        self.clock = clock
        self.new_request_id = new_request_id
        self.draining = False
        #: What is said of the load at an inbound port, to those who ask.
        self.reporter = Reporter()
        #: What has been given up lately: one memory for all listeners of a sidecar.
        self.given_up = GivenUp()
        #: The listener's own breaker, then those of routes.
        self.breakers: tuple[CircuitBreaker, ...] = ()
        self._acceptor = Acceptor(loop, self.protocol)
        self._connections: dict[Connection, None] = {}
        #: Connections that were redirected to the sidecar → where they were going.
        self.redirected: dict[Any, str] = {}
        #: Those that there was no room for, until they are closed; the oldest first.
        self._refused: dict[Connection, None] = {}
        #: Connections that were idle at the last search, the one that had been for the longest last; and when to search
        #: again at the earliest.
        self._found_idle: list[tuple[float, int, Connection]] = []
        self._next_search = 0.0
        cluster.on_removed = self.endpoint_removed

    @property
    def chain(self) -> Chain:
        """The listener's own chain."""
        return self.default_route.chain

    @property
    def timeout(self) -> Times:
        """The listener's own times; a route's are in its chain."""
        return self.default_route.chain.timeout

    def protocol(self) -> asyncio.Protocol:
        """A protocol object for a connection that is being accepted."""
        raise NotImplementedError

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """That endpoint is no longer in the set."""
        raise NotImplementedError

    @property
    def files(self) -> Sequence[Any]:
        """What it has on the disk for itself, which no other process may have at the same time: what
        :func:`sidecar.storage.claim.claim` waits for."""
        return ()

    async def start(self) -> None:
        """Bind and accept. Raises :class:`ListenerError`."""
        try:
            await self._acceptor.start(self.bind.host, self.bind.port)
        except OSError as error:
            raise ListenerError(f"{self.name}: cannot listen on {self.bind}: {bind_failure(error)}") from error
        for sock in self._acceptor.sockets:
            set_keepalive(sock)  # accepted sockets inherit it
        SHORTAGE.accepting[self._acceptor] = None
        SHORTAGE.idle[self.give_up_idle] = None

    def hold(self) -> None:
        """Accept nothing yet: once it has started, who connects waits in the kernel's queue."""
        self._acceptor.hold()

    def release(self) -> None:
        """Accept those who wait, and all others from now on."""
        self._acceptor.release()

    @property
    def shut(self) -> bool:
        """Whether it refuses connections at present."""
        return self._acceptor.is_shut

    @property
    def address(self) -> Address:
        """Where it really listens: ``bind``, with the port that the system chose for port 0."""
        sockets = self._acceptor.sockets
        return Address(self.bind.host, sockets[0].getsockname()[1]) if sockets else self.bind

    # -- connections -----------------------------------------------------------------------------------------------

    def enter(self, connection: Connection) -> bool:
        """Count a new connection in; ``False`` when there is no room for it even after the one that has been idle
        the longest was closed; or, and then it is cut, when this process is running out of descriptors."""
        sock = connection.transport.get_extra_info("socket")
        if sock is not None and not SHORTAGE.accepted(sock.fileno()):
            reset(connection.transport)
            return False
        connections = self._connections
        limit = self.limits.connections
        if limit and len(connections) >= limit and not self._make_room():
            return False
        connections[connection] = None
        self.stats.client_connections += 1
        return True

    def left(self, connection: Connection) -> None:
        """Count a connection out."""
        self._refused.pop(connection, None)
        if self.redirected:
            self.redirection_over(connection)
        if self._connections.pop(connection, self) is None:
            self.stats.client_connections -= 1

    def redirection_over(self, connection: Connection) -> None:
        """Nobody will ask any more where it was going."""
        self.redirected.pop(connection, None)

    def turn_away(self, connection: Connection) -> None:
        """Remember one that :meth:`enter` has refused and that stays open for a moment, so that it sees why. With too
        many of them the oldest is cut: they are beyond what clients may have open."""
        refused = self._refused
        refused[connection] = None
        if len(refused) > MAX_REFUSED:
            oldest = next(iter(refused))
            del refused[oldest]
            oldest.abort()

    def _make_room(self, rest: float = 0.0) -> bool:
        """Close the connection that has been idle for the longest, and for ``rest`` seconds; whether there was one.
        They are looked for all at once and kept in that order until they are used up, and not again for a moment when
        there are none: an attack must not make accepting slow. One that has something left to read makes no room: it
        would stay open, and nobody would count it."""
        found = self._found_idle
        now = self.clock()
        for searched in (False, True):
            if not searched and not found:
                continue
            if searched:
                if now < self._next_search:
                    return False
                self._next_search = now + SEARCH_SECONDS
                idle = [(c.idle_since, number, c) for number, c in enumerate(self._connections) if _unused(c)]
                idle.sort(reverse=True)
                found.extend(idle)
            while found:
                since, number, connection = found.pop()
                if connection in self._connections and _unused(connection) and connection.idle_since == since:
                    if now - since < rest:
                        found.append((since, number, connection))
                        return False
                    self.left(connection)
                    connection.close()
                    return True
        return False

    def give_up_idle(self) -> bool:
        """Close a client's connection that was used a while ago; whether there was one."""
        return self._make_room(REST_SECONDS)

    # -- work that upstreams push ----------------------------------------------------------------------------------

    def app_health(self, well: bool) -> None:
        """The app is fit for work, or is not. Matters only where an upstream pushes it."""

    def follow_breakers(self, breakers: Callable[[], Sequence[CircuitBreaker]]) -> None:
        """While one of these is open, the app cannot do what is pushed to it. Matters only there, too."""

    def stop_work(self) -> None:
        """Take no new work from an upstream that pushes it: the sidecar is about to drain."""

    # -- the end ---------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish what is under way; idle connections are closed. New ones are still accepted, and told."""
        self.draining = True
        for connection in list(self._connections):
            if connection.idle:
                connection.close()

    async def drained(self) -> None:
        """Returns when nothing is under way any more."""
        while self.stats.active:  # noqa: ASYNC110 - an event would cost every exchange something, for once in a life
            await asyncio.sleep(0.05)

    def close_socket(self) -> None:
        """Stop accepting."""
        self._acceptor.close()
        SHORTAGE.accepting.pop(self._acceptor, None)
        SHORTAGE.idle.pop(self.give_up_idle, None)

    async def stop(self) -> None:
        """Stop accepting and cut whatever is left."""
        self.close_socket()
        for connection in list(self._refused):
            connection.abort()
        for connection in list(self._connections):
            if connection.idle:
                connection.close()
            else:
                connection.abort()
        await asyncio.sleep(0)


def _unused(connection: Connection) -> bool:
    """Whether it is idle, and closed as soon as that is wanted."""
    return connection.idle and not connection.transport.get_write_buffer_size()


def bind_failure(error: OSError) -> str:
    """Why binding failed, and what to do about it. The loops put the address into ``strerror`` again; the number is
    plainer."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    hint = _HINTS.get(error.errno)
    reason = os.strerror(error.errno)
    return f"{reason} ({hint})" if hint else reason
