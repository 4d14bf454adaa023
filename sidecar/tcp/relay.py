"""TCP ports: one accepted connection, one to an endpoint, and bytes in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.replies import Reply
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.filter import Wait
from sidecar.exchange.listener import Connection, Listener
from sidecar.exchange.phases import CONNECTING, ENDED, TUNNEL
from sidecar.net.sockets import Pausable, keep_alive, reset, unacknowledged, undelivered

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.attempt import Attempt

#: Bytes that are taken from a client before the other end stands; with more, it is not read from.
EARLY_LIMIT: Final = 65536
#: Without ``timeout.idle``: how long a peer may read nothing of the last bytes, seconds.
LINGER_SECONDS: Final = 300.0


class TcpListener(Listener):
    """A port that is relayed byte for byte."""

    #: Only one endpoint is the right one at a time, the master: connections to another one are reset.
    exclusive: bool = False

    def protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, Client(self))

    def redirection_over(self, connection: Connection) -> None:
        """A client may leave before its exchange ends, and is known until then."""

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Connections to it stay: they may well still work, and only they know what their bytes mean."""
        if self.exclusive or self.cluster.unproven:
            for client in list(self._connections):
                exchange = cast(Client, client).exchange
                if exchange.attempt is not None and exchange.attempt.endpoint is endpoint:
                    exchange.abort()


class _Side(Pausable):
    """What both ends of a relayed connection do alike. ``other`` is the far end, when it stands."""

    __slots__ = ("destroyed", "exchange", "gone", "paused_writing")

    exchange: TcpExchange

    def __init__(self) -> None:
        Pausable.__init__(self)
        self.paused_writing = False
        #: Its connection is over; bytes written to it that its peer's reset has destroyed.
        self.gone = False
        self.destroyed = 0

    def other(self) -> _Side | None:
        raise NotImplementedError

    def undelivered(self) -> int:
        """Bytes that were written to it and that it has not read, as far as can be known."""
        return 0 if self.gone else undelivered(self.transport)

    def pause_writing(self) -> None:
        self.paused_writing = True
        other = self.other()
        if other is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        self.paused_writing = False
        other = self.other()
        if other is not None:
            other.resume_reading()

    def eof_received(self) -> bool:
        return self.exchange.finished_sending(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if exc is not None:
            self.destroyed = unacknowledged(self.transport)
        self.exchange.side_lost(self, exc)


class Client(_Side):
    """The accepted end."""

    __slots__ = ("listener",)

    def __init__(self, listener: TcpListener) -> None:
        _Side.__init__(self)
        self.listener = listener

    @property
    def idle(self) -> bool:
        """A TCP connection is its own exchange: it is never idle."""
        return False

    @property
    def idle_since(self) -> float:
        return 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.exchange = TcpExchange(self.listener, self, peer[0] if peer else "")
        self.exchange.start()

    def data_received(self, data: bytes) -> None:
        self.exchange.relay_in(data)

    def other(self) -> _Side | None:
        return self.exchange.far

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.exchange.abort()


class Far(_Side):
    """The end that leads to an endpoint."""

    __slots__ = ("attempt",)

    def __init__(self, exchange: TcpExchange, attempt: Attempt) -> None:
        _Side.__init__(self)
        self.exchange = exchange
        self.attempt = attempt

    def chosen(self, endpoint: Endpoint) -> None:
        """Another address of the same name was quicker."""
        if self.exchange.attempt is self.attempt:
            self.exchange.moved(self.attempt, endpoint)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(self.transport)
        self.exchange.connected(self)

    def data_received(self, data: bytes) -> None:
        self.exchange.relay_out(data)

    def other(self) -> _Side | None:
        return self.exchange.client


class TcpExchange(Exchange):
    """One relayed connection. There is nobody to send an error text to, so whatever goes wrong ends in a reset, which
    is what the client would see without us."""

    __slots__ = ("_early", "_early_size", "client", "far", "finishing", "half_closed", "timer")

    def __init__(self, listener: TcpListener, client: Client, client_ip: str) -> None:
        Exchange.__init__(self, listener, listener.default_route, client_ip, listener.clock())
        self.client = client
        self.far: Far | None = None
        #: The side that has finished sending.
        self.half_closed: _Side | None = None
        #: Both sides have; what is left is for them to read.
        self.finishing = False
        #: What the client said before the other end stood.
        self._early: list[bytes] = []
        self._early_size = 0
        self.timer = listener.wheel.timer(self._on_timer)

    def start(self) -> None:
        """Admit it, or not."""
        listener = self.listener
        listener.stats.active += 1
        if listener.enter(self.client):
            self.run()
        else:
            self.reply(Reply("overloaded", "too many clients are connected"))

    # -- connecting ------------------------------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        attempt.deadline = min(self.deadline, self.listener.clock() + self.chain.timeout.connect)
        self.set_timer(attempt.deadline)
        attempt.connecting = self.listener.loop.create_task(self._connect(attempt))

    async def _connect(self, attempt: Attempt) -> None:
        far = Far(self, attempt)
        try:
            await self.cluster.dial(self.listener.loop, far, attempt.endpoint, self.chain.timeout.connect, far.chosen)
        except OSError as error:
            self.connect_failed(attempt, error)

    def connected(self, far: Far) -> None:
        """The other end stands. Called from its ``connection_made``, so that it comes before anything that it says."""
        attempt = far.attempt
        if self.phase != CONNECTING or attempt is not self.attempt:
            far.transport.abort()  # the client has left, or the time was over, in this very moment
            return
        attempt.connecting = None
        attempt.sent = self.listener.clock()
        self.far = far
        self.phase = TUNNEL
        self.status = 200
        stats = self.listener.stats
        stats.upstream_active += 1
        stats.tunnels += 1
        if self.cluster.watchers:
            self.tell(attempt, 0)
        self.cluster.succeeded(attempt.endpoint)
        refusal: Reply | None = None
        for hook in self.chain.on_connected:
            verdict = hook(self)
            if refusal is None:
                refusal = verdict
        if refusal is not None:
            self.reply(refusal)
            return
        self.touched = self.listener.clock()
        self.check_idle(self.touched)
        if self._early:
            early = b"".join(self._early)
            self._early.clear()
            self.count_in(len(early))
            far.transport.write(early)
        if self.half_closed is not None:
            far.transport.write_eof()
        elif not far.paused_writing:
            self.client.resume_reading()

    # -- relaying --------------------------------------------------------------------------------------------------

    def relay_in(self, data: bytes) -> None:
        """Client → endpoint."""
        far = self.far
        if far is not None:
            self.touched = self.listener.clock()
            self.count_in(len(data))
            far.transport.write(data)
        elif self.phase != ENDED:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size > EARLY_LIMIT:
                self.client.pause_reading()

    def relay_out(self, data: bytes) -> None:
        """Endpoint → client."""
        self.touched = self.listener.clock()
        self.count_out(len(data))
        self.client.transport.write(data)

    def finished_sending(self, side: _Side) -> bool:
        """A half-close is passed on, if need be when the other end stands; after both it is over. Whether ``side``
        stays open for writing."""
        if self.phase == ENDED or self.finishing:
            return False
        if self.half_closed is not None:
            self._finish()
            return False
        self.half_closed = side
        other = side.other()
        if other is not None and not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def side_lost(self, side: _Side, error: Exception | None) -> None:
        """One end is gone: the other follows, with a reset if this one was reset."""
        if side is self.client:
            self.listener.left(self.client)
        elif side is not self.far:
            return  # a connection that came too late
        if self.phase == ENDED:
            return
        if error is not None or self.phase != TUNNEL:
            self.abort()
            return
        self._finish()
        far = self.far
        if self.client.gone and far is not None and far.gone:
            self.end()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Close both ends once what was written is out. It is over when both are gone: until then, bytes are still on
        their way, and a peer that stops reading them is cut (:meth:`longest_silence`)."""
        if self.finishing:
            return
        self.finishing = True
        far = self.far
        assert far is not None
        self.client.transport.close()
        far.transport.close()
        if not self.chain.timeout.idle:
            self.touched = self.listener.clock()
            self.check_idle(self.touched)

    def longest_silence(self) -> float:
        return self.chain.timeout.idle or (LINGER_SECONDS if self.finishing else 0.0)

    def undelivered(self) -> int:
        far = self.far
        return self.client.undelivered() + (far.undelivered() if far is not None else 0)

    def reply(self, reply: Reply) -> None:
        if self.phase != ENDED:
            self.note("refused", {"code": reply.code, "message": reply.message})
            if self.phase != TUNNEL:
                for hook in self.chain.on_reply:
                    verdict = hook(self, reply)
                    if verdict is not None:
                        if not isinstance(verdict, Wait):
                            self.give(verdict)
                        return
            self.error = reply.code
            self.status = reply.status
            self.abort()

    def abort(self) -> None:
        if self.phase == ENDED:
            return
        far = self.far
        if far is not None:  # a reset destroys what has not been read: it has not passed
            self.count_in(-(far.undelivered() + far.destroyed))
            self.count_out(-(self.client.undelivered() + self.client.destroyed))
        self.end()
        reset(self.client.transport)
        if far is not None:
            reset(far.transport)

    def reset(self) -> None:
        self.abort()

    def end(self, now: float = 0.0) -> bool:
        tunnel = self.phase == TUNNEL
        if not Exchange.end(self, now):
            return False
        self.timer.close()
        self._early.clear()
        listener = self.listener
        if listener.redirected:
            listener.redirected.pop(self.client, None)
        stats = listener.stats
        stats.active -= 1
        if tunnel:
            stats.tunnels -= 1
            stats.upstream_active -= 1
        return True

    def cut(self) -> None:
        if self.attempt is not None:
            self.attempt.stop_connecting()

    def set_timer(self, deadline: float) -> None:
        self.timer.set(deadline)

    def _on_timer(self) -> None:
        self.check_timer(self.listener.clock())
