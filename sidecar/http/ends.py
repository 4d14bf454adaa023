"""What an exchange needs of the two ends of its connections, whatever version of HTTP they speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.net.sockets import Pausable

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.blocks import ResponseBlock
    from sidecar.net.wheel import Timer


class ClientEnd(Pausable):
    """The client's end. ``exchange`` is the one under way; ``ip`` is the peer's address. ``half_closed``: the client
    has finished sending; ``paused_writing``: it does not read."""

    __slots__ = ("exchange", "half_closed", "ip", "paused_writing", "timer")

    exchange: HttpExchange | None
    half_closed: bool
    ip: str
    paused_writing: bool
    timer: Timer

    def take_buffer(self) -> bytes:
        """The held bytes, which are then somebody else's."""
        raise NotImplementedError

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        """The exchange is over, since ``now``: on to the next request, or close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Reset the connection: the client must not take what it has got for the whole."""
        raise NotImplementedError


class UpstreamEnd(Pausable):
    """The upstream's end. ``exchange`` is the one that uses it now, for that ``attempt``; without one it lies in the
    pool. ``reused``: it has carried an exchange before; ``buffer``: the beginning of a head, which is not complete."""

    __slots__ = ("attempt", "buffer", "exchange", "reused")

    attempt: Attempt
    buffer: bytes
    exchange: HttpExchange | None
    reused: bool

    def close(self) -> None:
        """Leave the exchange and close; what was written but not sent is dropped, nobody waits for it."""
        raise NotImplementedError

    def finish(self) -> None:
        """Leave the exchange and close once everything written is out, or nobody has read it for too long."""
        raise NotImplementedError


class UpstreamPool:
    """Connections to an upstream's endpoints."""

    def take(self, endpoint: Endpoint, idempotent: bool) -> UpstreamEnd | None:
        """A kept connection to that endpoint, or ``None``."""
        raise NotImplementedError

    def connect(self, exchange: HttpExchange, attempt: Attempt) -> None:
        """Open a connection for an attempt of an exchange, which is told by ``connected`` or ``connect_failed``."""
        raise NotImplementedError

    def put(self, conn: UpstreamEnd, head: ResponseBlock, now: float) -> None:
        """The exchange is done with it, and both directions are at a message border."""
        raise NotImplementedError

    def upgraded(self, conn: UpstreamEnd) -> None:
        """It has become a tunnel, and gives its place to others."""
        raise NotImplementedError
