"""A session as all of the relay knows it, and the port that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.connections import CLOSING, OPEN, PAUSE_FULL
from sidecar.amqp.wire.handshake import Handshake
from sidecar.amqp.wire.methods import blocked, unblocked
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.listener import Listener

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.flow.batches import Looks
    from sidecar.amqp.flow.gates import Gate
    from sidecar.amqp.flow.lanes import Sender
    from sidecar.amqp.flow.policy import KnownRoute, Policy, RouteTable
    from sidecar.amqp.flow.publish import Publish
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.relay.connections import BrokerConnection, ClientConnection
    from sidecar.amqp.topology.ephemeral import EphemeralQueues
    from sidecar.core.amqp_settings import Amqp
    from sidecar.core.replies import Reply
    from sidecar.endpoints.endpoint import Endpoint

#: How far a session has come.
GREETING: Final = 0
DIALLING: Final = 1
HANDSHAKE: Final = 2
RUNNING: Final = 3


class Port(Listener):
    """A listener that speaks AMQP, as its sessions see it: what they share, and what they tell it."""

    config: Amqp
    scheduler: Scheduler
    policy: Policy
    tracing: MessageTracing
    rng: Random
    #: What looks after small writes that wait.
    looks: Looks
    amqp_stats: AmqpStats
    ephemeral: EphemeralQueues
    #: Sessions that are not read from because the hold is full: since when, and what their last publish waits for.
    stopped: dict[SessionState, tuple[float, Gate]]
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

    def alarm(self, source: SessionState | str, on: bool) -> None:
        """The broker takes no publishes (or does again), says ``source``."""
        raise NotImplementedError

    def queue_declared(self, vhost: str, queue: str) -> None:
        """A client has declared a queue well: if it is to be watched, that can begin."""
        raise NotImplementedError

    def opened(self, session: SessionState) -> None:
        """A session has come through its handshake."""
        raise NotImplementedError

    def forget(self, session: SessionState) -> None:
        """A session has ended."""
        raise NotImplementedError


class SessionState(Exchange):
    """What all of the relay knows of a session: its connections, what passes between them, and what it can be told."""

    __slots__ = (
        "_linked", "_paused_bytes", "alarmed", "amqp_stats", "broker", "buffers", "client", "closing", "consumer",
        "detached", "handshake", "known", "max_message_size", "partial", "partial_limit", "peer", "policy", "port",
        "reason", "refused", "routes", "scheduler", "stage", "told_blocked", "tracing", "withheld",
    )  # fmt: skip

    def __init__(self, port: Port, client: ClientConnection, peer: str, client_ip: str) -> None:
        Exchange.__init__(self, port, port.default_route, client_ip, port.clock())
        self.method = "AMQP"
        self.port = port
        self.amqp_stats: AmqpStats = port.amqp_stats
        self.scheduler: Scheduler = port.scheduler
        self.policy: Policy = port.policy
        self.tracing: MessageTracing = port.tracing
        self.routes: RouteTable = port.policy.routes("/")
        #: That of the publishes that came last, if they passed as one run.
        self.known: KnownRoute | None = None
        #: The tag of the consumer whose deliveries came last as one run.
        self.consumer = b""
        self.max_message_size = port.config.max_message_size
        self.client = client
        #: The client's address and port.
        self.peer = peer
        self.broker: BrokerConnection | None = None
        self.stage = GREETING
        #: Why it ends, once that is so.
        self.reason = ""
        self.handshake = Handshake(port.config.vhosts)
        #: Publishes are buffered until they are confirmed, and messages until they are whole, as the session outlives
        #: its broker; and there is none at present.
        self.buffers = False
        self.detached = False
        #: Channels that the client has still to say close-ok to; whether the close is ours (or the broker's).
        self.closing: dict[int, bool] = {}
        #: Channels whose close of ours the broker has still to answer; how many closes.
        self.refused: dict[int, int] = {}
        #: Bytes of unfinished publishes on all channels, and how many there may be.
        self.partial = 0
        self.partial_limit = port.config.hold.bytes + port.config.max_message_size
        #: The same for messages to the client that it gets once they are whole; and of paused deliveries.
        self.withheld = 0
        self._paused_bytes = 0
        #: The broker has told this connection of an alarm; and we have told the client to publish nothing.
        self.alarmed = False
        self.told_blocked = False
        #: There is a connection to a broker that counts as one.
        self._linked = False

    @property
    def vhost(self) -> str:
        return self.handshake.vhost

    @property
    def speaks(self) -> bool:
        """There is a broker that may be told something."""
        broker = self.broker
        return broker is not None and broker.state == OPEN and not self.detached

    def withholds(self, size: int) -> bool:
        """Whether a message for the client, of which so many bytes of body are to come, can wait until they have."""
        return self.buffers and size <= self.max_message_size and self.withheld + size <= self.partial_limit

    def count_paused(self, messages: int, size: int) -> None:
        """Count so many more deliveries, and bytes of them, as paused. When that is too much, the broker is not read
        from."""
        self.amqp_stats.stalled += messages
        self._paused_bytes += size
        broker = self.broker
        if broker is not None:
            if self._paused_bytes >= self.port.config.hold.bytes:
                broker.stop(PAUSE_FULL)
            elif broker.stops & PAUSE_FULL:
                broker.go(PAUSE_FULL)

    def client_write(self, data: bytes) -> None:
        """Send to the client, if it is there; nothing may follow a close of ours (§2.2.4)."""
        state = self.client.state
        if data and (state == OPEN or (state == CLOSING and not self.reason)):
            self.count_out(len(data))
            self.client.write(data)

    def client_write_soon(self, data: bytes, count: int, backlog: int) -> None:
        """The same for answers to so many publishes, which may leave together with later ones: on their channel the
        broker has so many still to answer."""
        state = self.client.state
        if data and (state == OPEN or (state == CLOSING and not self.reason)):
            self.count_out(len(data))
            self.client.write_soon(data, count, backlog)

    def broker_write(self, data: bytes) -> None:
        """Send to the broker, if it is there."""
        broker = self.broker
        if data and broker is not None:
            broker.write(data)

    def broker_write_soon(self, data: bytes, count: int, backlog: int) -> None:
        """The same for so many publishes, which may leave together with later ones: on their channel the broker has so
        many still to answer."""
        broker = self.broker
        if broker is not None:
            broker.write_soon(data, count, backlog)

    def link(self, linked: bool) -> None:
        """Whether there is a connection to a broker that counts as one."""
        if linked != self._linked:
            self._linked = linked
            self.listener.stats.upstream_active += 1 if linked else -1

    def broker_blocked(self, reason: str) -> None:
        """The broker has an alarm, and this connection has published."""
        self.alarmed = True
        self.tell_blocked(reason)
        self.port.alarm(self, True)

    def broker_unblocked(self) -> None:
        """The alarm is over."""
        self.alarmed = False
        self.tell_unblocked()
        self.port.alarm(self, False)

    def tell_blocked(self, reason: str) -> None:
        """Tell a client that can hear it to publish nothing."""
        if self.handshake.hears_blocked and not self.told_blocked and self.client.state == OPEN:
            self.told_blocked = True
            self.client_write(blocked(reason))

    def tell_unblocked(self) -> None:
        """It may publish again."""
        if self.told_blocked and not self.alarmed:
            self.told_blocked = False
            if self.client.state == OPEN:
                self.client_write(unblocked())

    # -- what it is told -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing would be lost or done twice by closing it now."""
        raise NotImplementedError

    def client_said(self, data: bytes) -> None:
        """Bytes of the client came."""
        raise NotImplementedError

    def client_lost(self) -> None:
        """The client is gone, well or badly."""
        raise NotImplementedError

    def connected(self, broker: BrokerConnection) -> None:
        """A socket to a broker stands."""
        raise NotImplementedError

    def broker_said(self, broker: BrokerConnection, data: bytes) -> None:
        """Bytes of a broker came."""
        raise NotImplementedError

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> None:
        """A connection to a broker is gone."""
        raise NotImplementedError

    def schedule(self, publish: Publish, gate: Gate, now: float) -> None:
        """Hold a publish; stop reading when that was the last one there is room for."""
        raise NotImplementedError

    def emptied(self, number: int, sender: Sender) -> None:
        """Nothing of ``sender`` is held any more, the path of this channel: what waited for that goes on."""
        raise NotImplementedError

    def request(self, frames: bytes) -> bytes:
        """The client asks this of the broker: what is to be written to that (see :class:`BrokerSide`)."""
        raise NotImplementedError

    def hang_up(self, code: str) -> None:
        """Close the client's connection in the middle of its handshake, for a reason that will pass."""
        raise NotImplementedError

    def shut_down(self, reason: str) -> None:
        """End it politely."""
        raise NotImplementedError
