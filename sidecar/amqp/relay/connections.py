"""The two ends of a session: the accepted connection, and the one to a broker.

Small writes to a broker may be collected for a short time, and leave as one (:class:`WriteBatch`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import HEARTBEAT_FRAME
from sidecar.exchange.phases import CONNECTING
from sidecar.net.sockets import Pausable, keep_alive

if TYPE_CHECKING:
    from sidecar.amqp.flow.lanes import Handle
    from sidecar.amqp.relay.session_state import Port, SessionState
    from sidecar.endpoints.endpoint import Endpoint

#: Why a connection is not read from; any number at once.
OTHER_FULL: Final = 1  # the other connection cannot take more
HOLD_FULL: Final = 2  # no more can be held
PAUSE_FULL: Final = 4  # no more deliveries can be paused
PENDING_FULL: Final = 8  # no more frames can wait for what is held

#: How a connection stands.
OPEN: Final = 0
CLOSING: Final = 1
CLOSED: Final = 2

#: So many bytes are not worth waiting for more, bytes.
FULL: Final = 64 << 10


class WriteBatch:
    """Small writes to a broker, collected for one connection. Sans-I/O.

    The first write after a pause leaves at once, so whoever writes seldom loses nothing by it; what follows it within
    ``linger`` waits for the end of that time. A batch that is full leaves before. Whoever waits for the answers to what
    it has written would wait in vain for more to come: it says so (:meth:`hurry`). Everything leaves in the order in
    which it came. ``linger`` (seconds) is the longest that anything waits, and may be changed
    at any time; ``write`` takes what leaves."""

    __slots__ = ("_call_later", "_clock", "_free", "_parts", "_timer", "_write", "linger", "size")

    def __init__(
        self,
        linger: float,
        write: Callable[[bytes], None],
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Handle],
    ) -> None:
        self.linger = linger
        #: Bytes that wait.
        self.size = 0
        self._write = write
        self._clock = clock
        self._call_later = call_later
        self._parts: list[bytes] = []
        self._timer: Handle | None = None
        #: When something may leave without waiting for more.
        self._free = -inf

    def add(self, data: bytes) -> None:
        """Write it, soon; never before what was given earlier."""
        if not self._parts:
            # No timer as long as nothing waits: they would cost those who write seldom more than they save.
            now = self._clock()
            wait = self._free - now
            if wait <= 0:
                self._free = now + self.linger
                self._write(data)
                return
            if self._timer is None:
                self._timer = self._call_later(wait, self._due)
        self._parts.append(data)
        self.size += len(data)
        if self.size >= FULL:
            self.flush()

    def send(self, data: bytes) -> None:
        """Write it now, together with all that waits."""
        if self._parts:
            self._parts.append(data)
            self.flush()
        else:
            self._write(data)

    def flush(self) -> None:
        """Write what waits now."""
        parts = self._parts
        if parts:
            self._parts = []
            self.size = 0
            self._free = self._clock() + self.linger
            self._write(parts[0] if len(parts) == 1 else b"".join(parts))

    def hurry(self) -> None:
        """All that has left was answered: what waits leaves, and what comes next leaves at once."""
        if self._parts:
            self.flush()
        self._free = -inf

    def close(self) -> None:
        """Write what waits, and leave no timer behind."""
        self.hurry()
        timer = self._timer
        if timer is not None:
            self._timer = None
            timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.flush()


class Connection(Pausable):
    """What both ends do alike."""

    __slots__ = ("heard", "reader", "reads", "said", "session", "silent", "state", "stops")

    session: SessionState

    def __init__(self) -> None:
        Pausable.__init__(self)
        self.reader = FrameReader(HANDSHAKE_FRAME_MAX)
        self.state = OPEN
        self.stops = 0
        #: How often something has come.
        self.reads = 0
        #: Whether there was anything since the last beat, in and out; and how many beats long there was nothing in.
        self.heard = False
        self.said = False
        self.silent = 0

    def write(self, data: bytes) -> None:
        """Send it, unless the connection is gone."""
        if data and self.state != CLOSED:
            self.said = True
            self.transport.write(data)

    def beat(self) -> bool:
        """Half a heartbeat's time is over: say something if nothing was said. ``False``: the peer has not been heard
        of for twice the time (§4.2.7), though it was listened to."""
        if not self.said:
            self.write(HEARTBEAT_FRAME)
        self.said = False
        if self.heard or self.reading_paused:
            self.silent = 0
        else:
            self.silent += 1
        self.heard = False
        return self.silent < 4

    def stop(self, reason: int) -> None:
        """Do not read, for one more reason."""
        self.stops |= reason
        self.pause_reading()

    def go(self, reason: int) -> None:
        """That reason is gone."""
        self.stops &= ~reason
        if not self.stops:
            self.resume_reading()

    def eof_received(self) -> bool:
        """AMQP has no half-closed connections: this is the end."""
        return False


class ClientConnection(Connection):
    """The accepted end. What the listener counts."""

    __slots__ = ("_port", "full")

    def __init__(self, port: Port) -> None:
        Connection.__init__(self)
        self._port = port
        #: It cannot take more at present.
        self.full = False

    @property
    def idle(self) -> bool:
        """Closing it now loses nothing."""
        return self.session.idle

    @property
    def idle_since(self) -> float:
        """Idle ones make no room for others here."""
        return 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._port.accept(self, f"{peer[0]}:{peer[1]}" if peer else "", peer[0] if peer else "")

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.session.client_said(data)

    def pause_writing(self) -> None:
        self.full = True
        broker = self.session.broker
        if broker is not None:
            broker.stop(OTHER_FULL)

    def resume_writing(self) -> None:
        self.full = False
        broker = self.session.broker
        if broker is not None:
            broker.go(OTHER_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.session.client_lost()

    def close(self) -> None:
        self.session.shut_down("the sidecar is shutting down")

    def abort(self) -> None:
        self.session.abort()


class BrokerConnection(Connection):
    """The end that leads to a broker."""

    __slots__ = ("batch", "endpoint")

    def __init__(self, session: SessionState, endpoint: Endpoint) -> None:
        Connection.__init__(self)
        self.session = session
        self.endpoint = endpoint
        #: Where small publishes are collected, if they are.
        self.batch: WriteBatch | None = None

    def chosen(self, endpoint: Endpoint) -> None:
        """Another address of the same name was quicker."""
        session = self.session
        attempt = session.attempt
        if session.phase == CONNECTING and attempt is not None and attempt.endpoint is self.endpoint:
            session.moved(attempt, endpoint)
        self.endpoint = endpoint

    def collect(self, port: Port) -> None:
        """Let small publishes leave together, where that is configured."""
        settings = port.config.batch
        if settings is not None:
            self.batch = WriteBatch(settings.linger, self.transport.write, port.clock, port.loop.call_later)

    def write(self, data: bytes) -> None:
        batch = self.batch
        if batch is None:
            Connection.write(self, data)
        elif data and self.state != CLOSED:
            self.said = True
            batch.send(data)

    def write_soon(self, data: bytes) -> None:
        """Publishes: they may wait for others."""
        batch = self.batch
        if batch is None:
            Connection.write(self, data)
        elif data and self.state != CLOSED:
            self.said = True
            batch.add(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(self.transport)
        self.session.connected(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.reads += 1
        self.session.broker_said(self, data)

    def pause_writing(self) -> None:
        self.session.client.stop(OTHER_FULL)

    def resume_writing(self) -> None:
        self.session.client.go(OTHER_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.batch is not None:
            self.batch.close()
        self.state = CLOSED
        self.session.broker_lost(self, exc)
