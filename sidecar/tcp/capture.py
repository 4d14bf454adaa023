"""A port at which redirected connections arrive: each is handed to the listener that it belongs to, or relayed as TCP
to where it was going.

A connection that is handed over is that listener's own from its first byte on: nothing in here is on its way any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, Final, cast

from sidecar.core.address import Address
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.exchange.listener import Listener
from sidecar.net.sockets import Pausable, reset
from sidecar.tcp.relay import Client, TcpListener

logger = logging.getLogger("sidecar.redirect")

#: What became of connections that arrived: handed to a listener; relayed to where they were going; reset, as they
#: belong to no upstream; reset, as nobody redirected them, or as their listener takes none.
HANDED, PASSED, BLOCKED, REFUSED = "handed", "passed", "blocked", "refused"
#: Seconds from one line about refused connections to the next.
_SILENCE: Final = 60.0


class Destinations(Cluster):
    """In place of an upstream's endpoints: the one that the connection was going to, which is an exchange's key."""

    def pick(self, key: str = "", tried: Collection[Endpoint] = ()) -> Endpoint | None:
        host, _, port = key.rpartition(":")
        return None if tried or not port else Endpoint(host.strip("[]"), int(port))


def destination_of(x: Any) -> str:
    """Where a redirected exchange was going, as ``host:port``; empty: nobody redirected it."""
    found: str = x.listener.redirected.get(x.client, "")
    return found


class CaptureListener(TcpListener):
    """Such a port. What belongs to no listener is an exchange of its own, one of TCP; its cluster is
    :class:`Destinations`."""

    #: Where a connection was going, given its socket; ``None``: nobody redirected it.
    original: Callable[[Any], tuple[str, int] | None]
    #: The listener that a destination belongs to, given its address and port; ``None``: there is none.
    belongs: Callable[[str, int], Listener | None]
    #: Whether what belongs to none is relayed.
    passes: bool = False
    #: What became of connections, and the listener that they were handed to → how many.
    arrived: defaultdict[tuple[str, str], int]
    _silent_until: float = 0.0

    def protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, Arrival(self))

    def take(self, transport: asyncio.Transport) -> None:
        """Find out where a connection was going, and hand it on."""
        found = self.original(transport.get_extra_info("socket"))
        if found is None:
            self._refuse(transport, REFUSED, "", "somebody has dialled this port, which is for redirected ones alone")
            return
        to = self.belongs(found[0], found[1])
        if to is None:
            if not self.passes:
                self._refuse(transport, BLOCKED, "", f"{Address(*found)} belongs to no upstream (unknown: block)")
                return
            self._hand(transport, Client(self), self, found, PASSED)
        elif to.shut:
            self._refuse(transport, REFUSED, to.name, f"{to.name} takes no connections at present")
        else:
            self._hand(transport, to.protocol(), to, found, HANDED)

    def _hand(self, transport: asyncio.Transport, protocol: Any, to: Listener, at: tuple[str, int], how: str) -> None:
        self.arrived[how, to.name if how == HANDED else ""] += 1
        to.redirected[protocol] = str(Address(*at))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _refuse(self, transport: asyncio.Transport, how: str, name: str, why: str) -> None:
        self.arrived[how, name] += 1
        peer = transport.get_extra_info("peername")
        reset(transport)
        now = self.clock()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            logger.warning("a connection at %s was reset: %s", self.name, why, extra={"client": peer and peer[0]})


class Arrival(Pausable):
    """A connection that has just been accepted: it has another protocol at once, or is over."""

    __slots__ = ("listener",)

    def __init__(self, listener: CaptureListener) -> None:
        Pausable.__init__(self)
        self.listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.listener.take(self.transport)

    def data_received(self, data: bytes) -> None:
        """Nothing is read of what was refused."""

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """As above."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It was refused, and was counted then."""
