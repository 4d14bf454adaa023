"""What every listener has: an address, the connections it accepted, and what its exchanges need."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.config.model import Address, Limits, Timeout
from sidecar.proxy.sockets import set_keepalive

if TYPE_CHECKING:
    from sidecar.filters.api import Chain
    from sidecar.proxy.assembly import Assembly
    from sidecar.resilience.breaker import CircuitBreaker
    from sidecar.resilience.wheel import TimerWheel
    from sidecar.telemetry.stats import ListenerStats
    from sidecar.upstreams.cluster import Cluster
    from sidecar.upstreams.endpoint import Endpoint

#: What to do about the usual reasons why an address cannot be bound.
_HINTS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another bind",
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.EACCES: "this user may not; choose a port from 1024 up",
}


class ListenerError(Exception):
    """A listener could not be opened; the text says which, where and why."""


class Connection(Protocol):
    """An accepted connection."""

    @property
    def idle(self) -> bool:
        """No exchange is under way on it."""
        ...

    def close(self) -> None: ...
    def abort(self) -> None: ...


class Listener:
    """One bound address. ``name`` is the upstream's, inbound the service's own; ``new_request_id`` makes ids for what
    is refused before it has one. Chains are replaced as a whole on reload; what is under way keeps the one it began
    with."""

    #: What an exchange runs; for HTTP, one that no route matches. Set by the assembly, as are ``limits``.
    chain: Chain
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
        #: The listener's own breaker, then those of routes.
        self.breakers: tuple[CircuitBreaker, ...] = ()
        #: An ``asyncio.Server`` in all but its types: uvloop's has a list of sockets.
        self._server: Any = None
        self._connections: dict[Connection, None] = {}  # in the order of arrival
        cluster.on_removed = self.endpoint_removed

    @property
    def timeout(self) -> Timeout:
        """The listener's own times; a route's are in its chain."""
        return self.chain.timeout

    def protocol(self) -> asyncio.Protocol:
        """A protocol object for a connection that is being accepted."""
        raise NotImplementedError

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """That endpoint is no longer in the set."""
        raise NotImplementedError

    async def start(self) -> None:
        """Bind and accept. Raises :class:`ListenerError`."""
        try:
            self._server = await self.loop.create_server(
                self.protocol, self.bind.host, self.bind.port, backlog=1024, reuse_address=True
            )
        except OSError as error:
            raise ListenerError(f"{self.name}: cannot listen on {self.bind}: {bind_failure(error)}") from error
        for sock in self._server.sockets:
            set_keepalive(sock)  # accepted sockets inherit it

    @property
    def address(self) -> Address:
        """Where it really listens: ``bind``, with the port that the system chose for port 0."""
        if self._server is None or not self._server.sockets:
            return self.bind
        return Address(self.bind.host, self._server.sockets[0].getsockname()[1])

    # -- connections -----------------------------------------------------------------------------------------------

    def enter(self, connection: Connection) -> bool:
        """Count a new connection in; ``False`` when there is no room for it even after the one that has been idle
        the longest among the oldest was closed."""
        connections = self._connections
        limit = self.limits.connections
        if limit and len(connections) >= limit and not self._make_room():
            return False
        connections[connection] = None
        self.stats.client_connections += 1
        return True

    def left(self, connection: Connection) -> None:
        """Count a connection out."""
        if self._connections.pop(connection, self) is None:
            self.stats.client_connections -= 1

    def _make_room(self) -> bool:
        for count, connection in enumerate(self._connections):
            if connection.idle:
                self.left(connection)
                connection.close()
                return True
            if count >= 64:  # an attack must not make accepting slow
                break
        return False

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
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Stop accepting and cut whatever is left."""
        self.close_socket()
        for connection in list(self._connections):
            if connection.idle:
                connection.close()
            else:
                connection.abort()
        await asyncio.sleep(0)


def bind_failure(error: OSError) -> str:
    """Why binding failed, and what to do about it. The loops put the address into ``strerror`` again; the number is
    plainer."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    hint = _HINTS.get(error.errno)
    reason = os.strerror(error.errno)
    return f"{reason} ({hint})" if hint else reason
