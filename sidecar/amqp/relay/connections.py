"""The two ends of a session, the accepted connection and the one to a broker, and the port that has accepted it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.relay.write_batch import WriteBatch
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import HEARTBEAT_FRAME
from sidecar.exchange.listener import Listener
from sidecar.exchange.phases import CONNECTING
from sidecar.net.sockets import Pausable, keep_alive

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.flow.gates import Gate
    from sidecar.amqp.flow.policy import Policy
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.topology.ephemeral import EphemeralQueues
    from sidecar.core.amqp_settings import Amqp
    from sidecar.core.replies import Reply
    from sidecar.endpoints.endpoint import Endpoint

#: Why a connection is not read from; any number at once.
OTHER_FULL: Final = 1  # the other connection cannot take more
HOLD_FULL: Final = 2  # no more can be held
PAUSE_FULL: Final = 4  # no more deliveries can be paused
PENDING_FULL: Final = 8  # no more frames can wait for what is held

#: How a connection stands.
OPEN, CLOSING, CLOSED = range(3)


class Port(Listener):
    """A listener that speaks AMQP, as its sessions see it: what they share, and what they tell it."""

    config: Amqp
    scheduler: Scheduler
    policy: Policy
    tracing: MessageTracing
    rng: Random
    amqp_stats: AmqpStats
    ephemeral: EphemeralQueues
    #: Those that have come through their handshake.
    sessions: dict[Session, None]
    #: Sessions that are not read from because the hold is full: since when, and what their last publish waits for.
    stopped: dict[Session, tuple[float, Gate]]
    #: Whether deliveries are paused at present.
    paused: bool
    #: The sidecar is about to drain: nobody gets deliveries any more.
    work_is_over: bool

    def accept(self, client: ClientConnection, peer: str, client_ip: str) -> None:
        """A client has connected."""
        raise NotImplementedError

    def see_to_room(self) -> None:
        """A client has come or gone, or there is room for another number of them."""
        raise NotImplementedError

    def turned_away(self, reply: Reply) -> None:
        """A client could not be given a broker."""
        raise NotImplementedError

    def broker_found(self, endpoint: Endpoint) -> bool:
        """A connection to a broker stands. ``False``: an operator wants it to be refused all the same."""
        raise NotImplementedError

    def broker_missing(self) -> None:
        """No endpoint answers."""
        raise NotImplementedError

    def broker_lost(self) -> None:
        """A broker has gone under a client: there may be none."""
        raise NotImplementedError

    def alarm(self, source: Session | str, on: bool) -> None:
        """The broker takes no publishes (or does again), says ``source``."""
        raise NotImplementedError

    def queue_declared(self, vhost: str, queue: str) -> None:
        """A client has declared a queue well: if it is to be watched, that can begin."""
        raise NotImplementedError

    def forget(self, session: Session) -> None:
        """A session has ended."""
        raise NotImplementedError


class Connection(Pausable):
    """What both ends do alike."""

    __slots__ = ("heard", "reader", "reads", "said", "session", "silent", "state", "stops")

    session: Session

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

    def __init__(self, session: Session, endpoint: Endpoint) -> None:
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
