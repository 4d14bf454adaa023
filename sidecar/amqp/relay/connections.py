"""The two ends of a session: the accepted connection, and the one to a broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.flow.batches import BacklogBatch, LingerBatch
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import HEARTBEAT_FRAME
from sidecar.exchange.phases import CONNECTING
from sidecar.net.sockets import Pausable, keep_alive

if TYPE_CHECKING:
    from sidecar.amqp.flow.batches import WriteBatch
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


class Connection(Pausable):
    """What both ends do alike."""

    __slots__ = ("batch", "heard", "reader", "reads", "said", "session", "silent", "state", "stops")

    session: SessionState

    def __init__(self) -> None:
        Pausable.__init__(self)
        self.reader = FrameReader(HANDSHAKE_FRAME_MAX)
        #: Where what is written soon waits for others, once the handshake is over.
        self.batch: WriteBatch | None = None
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
            batch = self.batch
            if batch is None:
                self.transport.write(data)
            else:
                batch.send(data)

    def write_soon(self, data: bytes, count: int, backlog: int) -> None:
        """Send so many publishes, or answers to them (0: something else); they may wait for others, as so many have
        still to be answered."""
        batch = self.batch
        if batch is None:
            self.write(data)
        elif data and self.state != CLOSED:
            self.said = True
            batch.add(data, count, backlog)

    def flush(self) -> None:
        """Send what waits for others now."""
        if self.batch is not None:
            self.batch.flush()

    def lost(self) -> None:
        """It is gone, and whatever waits with it."""
        self.state = CLOSED
        if self.batch is not None:
            self.batch.drop()

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
        self.lost()
        self.session.client_lost()

    def collect(self, port: Port) -> None:
        """Let answers to publishes leave together."""
        if self.batch is None:
            self.batch = BacklogBatch(self.transport.write, port.looks)

    def close(self) -> None:
        self.session.shut_down("the sidecar is shutting down")

    def abort(self) -> None:
        self.session.abort()


class BrokerConnection(Connection):
    """The end that leads to a broker."""

    __slots__ = ("endpoint",)

    def __init__(self, session: SessionState, endpoint: Endpoint) -> None:
        Connection.__init__(self)
        self.session = session
        self.endpoint = endpoint

    def chosen(self, endpoint: Endpoint) -> None:
        """Another address of the same name was quicker."""
        session = self.session
        attempt = session.attempt
        if session.phase == CONNECTING and attempt is not None and attempt.endpoint is self.endpoint:
            session.moved(attempt, endpoint)
        self.endpoint = endpoint

    def collect(self, port: Port) -> None:
        """Let small publishes leave together."""
        settings = port.config.batch
        write = self.transport.write
        if settings is None:
            self.batch = BacklogBatch(write, port.looks)
        else:
            self.batch = LingerBatch(settings.linger, write, port.clock, port.loop.call_later)

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
        self.lost()
        self.session.broker_lost(self, exc)
