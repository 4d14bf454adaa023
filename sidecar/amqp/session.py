"""A session: one client's connection, its connection to a broker, and everything from the first byte to the one end.

    GREETING ─ protocol header ─> DIALLING ─ start ─> HANDSHAKE ─ open-ok ─> RUNNING ─ close, or a leg is lost ─> end
                                     └ no broker ─> REFUSING (a handshake of our own, to be able to say why)

Each leg ends for itself: the broker's outlives the client's as long as something of the client is held, and the
client's outlives the broker's until it has been told why.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from struct import pack
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp import relay
from sidecar.amqp.batch import Batch
from sidecar.amqp.channel import REPLIES, Channel
from sidecar.amqp.gates import Gate
from sidecar.amqp.handshake import Handshake
from sidecar.amqp.incoming import Unfinished
from sidecar.amqp.legs import CLOSED, CLOSING, HOLD_FULL, OPEN, STALL_FULL, WAITING_FULL, BrokerLeg, ClientLeg
from sidecar.amqp.methods import (
    basic_cancel,
    blocked,
    channel_close,
    connection_close,
    connection_close_ok,
    method,
    method_of,
    unblocked,
)
from sidecar.amqp.policy import Routes
from sidecar.amqp.publish import Publish
from sidecar.amqp.spec import (
    COMMAND_INVALID,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_FORCED,
    CONNECTION_START,
    CONNECTION_START_OK,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    REPLY_SUCCESS,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.stats import AmqpStats
from sidecar.amqp.tables import encode_table
from sidecar.proxy.errors import STATUS, Reply
from sidecar.proxy.exchange import CONNECTING, ENDED, TUNNEL, Exchange
from sidecar.proxy.sockets import reset

if TYPE_CHECKING:
    from sidecar.amqp.hold import Hold
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.policy import Policy
    from sidecar.amqp.tracing import MessageTracing
    from sidecar.upstreams.endpoint import Endpoint

logger = logging.getLogger("sidecar.amqp")

GREETING, DIALLING, REFUSING, HANDSHAKE, RUNNING = range(5)

#: Seconds: for a peer to answer a close; and for what is not done then to be cut.
CLOSE_SECONDS: Final = 3.0


class Session(Exchange):
    """One client connection as an exchange: admission, tries and accounting are those of TCP connections."""

    __slots__ = (
        "_close_frame", "_counted", "_due", "_greeting", "_interval", "_linked", "_listener", "_next_beat", "_reason",
        "_refusal", "_stalled_bytes", "_told_blocked", "_waiting_bytes", "alarmed", "amqp_stats", "broker", "channels",
        "client", "closing", "detached", "handshake", "hold", "keeps", "max_message_size", "partial", "partial_limit",
        "peer", "policy", "refused", "returning", "routes", "stage", "stalling", "timer", "tracing", "withheld",
    )  # fmt: skip

    broker: BrokerLeg | None

    def __init__(self, listener: AmqpListener, client: ClientLeg, peer: str, client_ip: str) -> None:
        Exchange.__init__(self, listener, listener.chain, client_ip, listener.clock())
        self.method = "AMQP"
        self._listener = listener
        self.client = client
        #: The client's address and port.
        self.peer = peer
        self.broker = None
        self.stage = GREETING
        self._greeting = b""
        #: Why it was not even admitted.
        self._refusal: Reply | None = None
        self.hold: Hold = listener.hold
        self.policy: Policy = listener.policy
        self.tracing: MessageTracing = listener.tracing
        self.amqp_stats: AmqpStats = listener.amqp_stats
        self.routes: Routes = listener.policy.routes("/")
        self.max_message_size = listener.config.max_message_size
        self.handshake = Handshake(listener.config.vhosts)
        self.channels: dict[int, Channel] = {}
        #: Channels that the client has still to say close-ok to; whether the close is ours (or the broker's).
        self.closing: dict[int, bool] = {}
        #: Channels whose close of ours the broker has still to answer; how many closes.
        self.refused: dict[int, int] = {}
        #: Bytes of unfinished publishes on all channels, and how many there may be.
        self.partial = 0
        self.partial_limit = listener.config.hold.bytes + listener.config.max_message_size
        #: The same for messages to the client that it gets once they are whole.
        self.withheld = 0
        #: Deliveries are kept back; or given back, because we drain.
        self.stalling = False
        self.returning = False
        #: Publishes are kept until they are confirmed, and the session outlives its broker; there is none at present.
        self.keeps = False
        self.detached = False
        self._stalled_bytes = 0
        #: Bytes of frames that wait for what is held.
        self._waiting_bytes = 0
        #: The broker has told this connection of an alarm; and we have told the client to publish nothing.
        self.alarmed = False
        self._told_blocked = False
        #: The client's ``connection.close``, as long as something of it is still held.
        self._close_frame = b""
        self._reason = ""
        self._counted = False
        #: There is a connection to a broker that counts as one.
        self._linked = False
        self._interval = inf
        self._next_beat = inf
        #: When to cut what has not ended by itself.
        self._due = self.started + (self.chain.timeout.head or inf)
        self.timer = listener.wheel.timer(self._on_timer)

    def start(self) -> None:
        """Admit it, or not; then wait for the client's first word."""
        listener = self.listener
        listener.stats.active += 1
        self._set_timer()
        if not listener.enter(self.client):
            self._refusal = Reply("overloaded", "too many clients are connected")

    # -- what others ask -----------------------------------------------------------------------------------------------

    @property
    def vhost(self) -> str:
        return self.handshake.vhost

    @property
    def channel_max(self) -> int:
        return self.handshake.channel_max

    @property
    def frame_max(self) -> int:
        return self.handshake.frame_max

    @property
    def held(self) -> int:
        """Publishes held, on all channels."""
        return sum(channel.held for channel in self.channels.values())

    @property
    def unacked(self) -> int:
        """Deliveries that the client has not settled."""
        return sum(channel.unacked.count for channel in self.channels.values())

    @property
    def idle(self) -> bool:
        """Nothing would be lost or done twice by closing it now."""
        if self.stage != RUNNING or self.partial:
            return self.stage != RUNNING
        for channel in self.channels.values():
            confirms = channel.confirms
            if channel.held or channel.unacked.count or channel.waiting is not None:
                return False
            if channel.passing or isinstance(channel.incoming, Unfinished):
                return False
            if channel.route is not None or (confirms is not None and confirms.unanswered):
                return False
        return True

    @property
    def told_blocked(self) -> bool:
        """The client knows that it should not publish."""
        return self._told_blocked

    @property
    def stalled_deliveries(self) -> int:
        """Deliveries kept back."""
        return sum(len(channel.stalled) for channel in self.channels.values())

    def prefetch(self, count: int) -> int:
        """The prefetch limit that a consumer gets who asks for ``count`` (0: for no limit)."""
        prefetch = self._listener.config.prefetch
        if count == 0:
            return prefetch.default
        return min(count, prefetch.max) if prefetch.max else count

    # -- the client ----------------------------------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes came."""
        self.count_in(len(data))
        try:
            if self.stage == RUNNING and self.client.state == OPEN:
                reader = self.client.reader
                frames = reader.feed(data)
                if frames:
                    relay.from_client(self, reader.data, frames)
                if reader.error is not None:
                    raise reader.error
            elif self.stage == GREETING:
                self._greet(data)
            elif self.stage == DIALLING:
                self.abort()  # it has not been asked anything yet
            else:
                self._client_frames(data)
        except AmqpError as error:
            self._fail(error)

    def _greet(self, data: bytes) -> None:
        greeting = self._greeting = self._greeting + data
        if not PROTOCOL_HEADER.startswith(greeting[:8]) or len(greeting) > 8:
            # Whatever it speaks, this is what is spoken here (§4.2.2).
            self.client.write(PROTOCOL_HEADER)
            self.error = "bad_request"
            self.status = STATUS[self.error]
            self.client.transport.close()
        elif len(greeting) == 8:
            self.stage = DIALLING
            self._due = inf
            if self._listener.draining:
                self._refusal = Reply("draining", "the sidecar is shutting down")
            if self._refusal is not None:
                self.reply(self._refusal)
            else:
                self.run()

    def _client_frames(self, data: bytes) -> None:
        """Frames outside the ordinary flow: the handshake, and what comes after a close."""
        reader = self.client.reader
        frames = reader.feed(data)
        for kind, number, start, end in frames:
            if kind != METHOD or number:
                if self.client.state == OPEN and kind != HEARTBEAT:
                    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - the handshake is not over")
                continue
            found = method_of(reader.data, start, end)
            if self.client.state != OPEN:
                if found == CONNECTION_CLOSE:
                    self.client.write(connection_close_ok())
                if found in (CONNECTION_CLOSE, CONNECTION_CLOSE_OK):
                    self.client.transport.close()
                    return
            elif self.stage == REFUSING:
                if found == CONNECTION_START_OK:
                    self._close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {self._reason}")
            elif self.stage == HANDSHAKE:
                self.broker_write(self.handshake.from_client(reader.data, start, end))
                reader.limit = self.handshake.frame_max
                if self.broker is not None:
                    self.broker.reader.limit = self.handshake.frame_max
        if reader.error is not None and self.client.state == OPEN:
            raise reader.error

    def client_closes(self, frame: bytes) -> bytes:
        """``connection.close``: it passes when nothing is held for this client any more."""
        if self._busy():
            self._close_frame = frame
            return b""
        self.client.state = CLOSING
        if self.broker is not None:
            self.broker.state = CLOSING
        self._due_in(CLOSE_SECONDS)
        return frame

    def new_secret(self, secret: bytes) -> bytes | None:
        """``connection.update-secret``: what goes on in its place."""
        return None

    @property
    def client_may_be_silent(self) -> bool:
        """The client waits for an answer and sends no heartbeats meanwhile."""
        return False

    def client_lost(self) -> None:
        """The client is gone, well or badly."""
        self.listener.left(self.client)
        if self.phase == ENDED:
            return
        broker = self.broker
        if self.stage != RUNNING or broker is None or broker.state == CLOSED:
            self.abort()
            return
        # Whatever its reading waited for, the client no longer is it.
        broker.stops = 0
        broker.resume_reading()
        if broker.state != OPEN:
            self._end_if_over()
        elif self._busy():
            # What it published goes on its way; its connection to the broker stays until then.
            self._due = inf
        else:
            self._close_broker("the client is gone")

    def wait(self, channel: Channel, frame: bytes) -> None:
        """A frame that must not overtake what its channel has held."""
        assert channel.waiting is not None
        channel.waiting.append(relay.pinned(channel, frame))
        self._waiting_bytes += len(frame) + 64
        if self._waiting_bytes > self.max_message_size:
            self.client.stop(WAITING_FULL)

    def keep(self, publish: Publish, gate: Gate, now: float) -> None:
        """Hold a publish; stop reading when that was the last one there is room for."""
        self.hold.keep(publish, gate, now)
        if self.hold.full:
            self._listener.stopped.setdefault(self, now)
            self.client.stop(HOLD_FULL)
        if self.amqp_stats.blocked:
            self.tell_blocked("the broker has an alarm")

    def emptied(self, channel: Channel) -> None:
        """Nothing is held for a channel any more: what waited for that goes on."""
        if channel.waiting is not None:
            self._take_in(channel)
        if self._close_frame or self.client.state != OPEN:
            self._go_on_closing()

    def _take_in(self, channel: Channel) -> None:
        """Frames that waited come in now, as if they had just been read."""
        waiting = self._forget_waiting(channel)
        frames: list[tuple[int, int, int, int]] = []
        start = 0
        for frame in waiting:
            end = start + len(frame)
            frames.append((frame[0], frame[1] << 8 | frame[2], start, end))
            start = end
        try:
            if frames:
                relay.from_client(self, b"".join(waiting), frames)
        except AmqpError as error:
            self._fail(error)

    def _forget_waiting(self, channel: Channel) -> list[bytes]:
        waiting = channel.waiting or []
        channel.waiting = None
        if waiting:
            self._waiting_bytes -= sum(map(len, waiting)) + 64 * len(waiting)
            if self._waiting_bytes <= self.max_message_size:
                self.client.go(WAITING_FULL)
        return waiting

    def _go_on_closing(self) -> None:
        """A close that waited for what was held need not wait any more."""
        if self.phase == ENDED or self._busy():
            return
        if self.client.state != OPEN:
            self._close_broker("the client is gone")
        elif self._close_frame:
            self.broker_write(self.client_closes(self._close_frame))

    def _busy(self) -> bool:
        """Something of the client is still held."""
        return any(channel.held or channel.waiting is not None for channel in self.channels.values())

    def read_on(self) -> None:
        """There is room again for what is held."""
        self.client.go(HOLD_FULL)

    def tell_blocked(self, reason: str) -> None:
        """Tell a client that can hear it to publish nothing."""
        if self.handshake.hears_blocked and not self._told_blocked and self.client.state == OPEN:
            self._told_blocked = True
            self.client_write(blocked(reason))

    def tell_unblocked(self) -> None:
        """It may publish again."""
        if self._told_blocked and not self.alarmed:
            self._told_blocked = False
            if self.client.state == OPEN:
                self.client_write(unblocked())

    def client_write(self, data: bytes) -> None:
        """Send to the client, if it is there; nothing may follow a close of ours (§2.2.4)."""
        state = self.client.state
        if data and (state == OPEN or (state == CLOSING and not self._reason)):
            self.count_out(len(data))
            self.client.write(data)

    # -- connecting ----------------------------------------------------------------------------------------------------

    def open(self, endpoint: Endpoint) -> None:
        self.try_deadline = min(self.deadline, self.listener.clock() + self.chain.timeout.connect)
        self._set_timer()
        self.connecting = self.listener.loop.create_task(self._connect(endpoint))

    async def _connect(self, endpoint: Endpoint) -> None:
        try:
            await self.listener.loop.create_connection(
                lambda: cast(asyncio.Protocol, BrokerLeg(self, endpoint)), endpoint.host, endpoint.port
            )
        except OSError as error:
            self.connect_failed(error)

    def connected(self, broker: BrokerLeg) -> None:
        """A socket stands; the try has succeeded once there is a ``start`` on it."""
        if self.phase != CONNECTING or broker.endpoint is not self.endpoint:
            broker.transport.abort()  # the client has left, or the time was over, in this very moment
            return
        self.broker = broker
        broker.write(PROTOCOL_HEADER)

    def _started(self, broker: BrokerLeg) -> None:
        self.connecting = None
        self.phase = TUNNEL
        self.status = 200
        self.stage = HANDSHAKE
        stats = self.listener.stats
        stats.upstream_active += 1
        self._linked = True
        self.collect(broker)
        stats.tunnels += 1
        self.listener.cluster.succeeded(broker.endpoint)
        for hook in self.chain.on_connected:
            hook(self)
        self._due_in(self.chain.timeout.head or inf)

    def collect(self, broker: BrokerLeg) -> None:
        """Let small publishes leave together, where that is configured."""
        settings = self._listener.config.batch
        if settings is not None:
            listener = self.listener
            broker.batch = Batch(settings.linger, broker.transport.write, listener.clock, listener.loop.call_later)

    def cut(self) -> None:
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        broker = self.broker
        if broker is not None:
            self.broker = None
            broker.transport.abort()

    def reply(self, reply: Reply) -> None:
        """No broker, or no admission. A close can only follow a start, so the client gets one from us."""
        if self.phase == ENDED or self.client.state != OPEN or self.stage == REFUSING:
            return
        self.error = reply.code
        self.status = STATUS[reply.code]
        self.stage = REFUSING
        self._reason = reply.message
        properties = encode_table({"product": "sidecar"})
        arguments = b"\x00\x09" + properties + _long(b"PLAIN AMQPLAIN EXTERNAL") + _long(b"en_US")
        self.client.write(method(0, CONNECTION_START, arguments))
        self._due_in(CLOSE_SECONDS)

    # -- the broker ----------------------------------------------------------------------------------------------------

    def broker_said(self, broker: BrokerLeg, data: bytes) -> None:
        """Bytes came."""
        if broker is not self.broker or self.phase == ENDED:
            return
        reader = broker.reader
        frames = reader.feed(data)
        try:
            if self.stage == RUNNING:
                if frames:
                    relay.from_broker(self, reader.data, frames)
            else:
                for kind, number, start, end in frames:
                    if kind == METHOD:
                        self._broker_handshake(broker, number, reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def _broker_handshake(self, broker: BrokerLeg, number: int, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if self.stage == RUNNING:  # pipelined behind open-ok
            relay.from_broker(self, data, [(METHOD, number, start, end)])
            return
        if self.phase == CONNECTING and found != CONNECTION_START:
            raise AmqpError(COMMAND_INVALID, "it does not begin with connection.start", found)
        if found == CONNECTION_CLOSE:
            relay.from_broker(self, data, [(METHOD, number, start, end)])
            return
        new = self.handshake.from_broker(data, start, end)
        if found == CONNECTION_START and self.phase == CONNECTING:
            self._started(broker)
        self.client_write(new)
        if self.handshake.done:
            self._opened()

    def _opened(self) -> None:
        """The handshake is over."""
        handshake = self.handshake
        self.stage = RUNNING
        self._due = inf
        self.routes = self.policy.routes(handshake.vhost)
        self.amqp_stats.connections += 1
        self._counted = True
        self._listener.sessions[self] = None
        if handshake.heartbeat:
            self._interval = handshake.heartbeat / 2
            self._next_beat = self.listener.clock() + self._interval
        self._set_timer()
        self.stall(self._listener.stalled)
        if self._listener.work_is_over:
            self.stop_work()
        logger.info(
            "an AMQP client has connected",
            extra={
                "upstream": self.listener.name,
                "client": self.peer,
                "product": handshake.product,
                "user": handshake.user,
                "vhost": handshake.vhost,
                "endpoint": self.broker.endpoint.address if self.broker is not None else None,
            },
        )

    def broker_write(self, data: bytes) -> None:
        """Send to the broker, if it is there."""
        broker = self.broker
        if data and broker is not None:
            broker.write(data)

    def broker_publish(self, data: bytes) -> None:
        """The same for publishes, which may leave together with later ones."""
        broker = self.broker
        if broker is not None:
            broker.write_soon(data)

    def hurry(self) -> None:
        """Nothing is unanswered: whoever publishes waits for no more."""
        broker = self.broker
        if broker is not None and broker.batch is not None:
            broker.batch.hurry()

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        """``connection.close`` from the broker: it has its answer at once, the client may take its time."""
        broker = self.broker
        assert broker is not None
        broker.write(connection_close_ok())
        broker.state = CLOSING
        broker.transport.close()
        if self.client.state == OPEN:
            self._without_broker(f"{code} {text}")
            self.client_write(frame)
            self._client_is_closing()

    def broker_closed(self) -> None:
        """``connection.close-ok`` from the broker."""
        if self.client.state == CLOSING and not self._reason:  # it was the client who asked
            self.client_write(connection_close_ok())
            self._reason = "closed"
            self.client.transport.close()
        broker = self.broker
        if broker is not None:
            broker.transport.close()

    def broker_lost(self, broker: BrokerLeg, error: Exception | None) -> None:
        """The connection to the broker is gone."""
        if broker is not self.broker:
            return  # one that came too late, or was let go
        if self.phase == CONNECTING:
            self.broker = None
            self.connect_failed(error or ConnectionResetError())
            return
        if self.phase == ENDED:
            return
        if self.client.state == OPEN:
            if self.stage == HANDSHAKE and not self.handshake.open_sent:
                # How brokers refuse a user, and what clients take for that.
                self.error = "upstream_reset"
                self.status = STATUS[self.error]
                self.client.transport.close()
            else:
                self.error = "upstream_reset"
                self.status = STATUS[self.error]
                self.listener.cluster.failed(broker.endpoint, hard=False)
                where = f"the broker at {broker.endpoint.address}"
                self._without_broker("connection lost")
                self._close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {where} closed the connection")
        elif self.client.state == CLOSING and not self._reason:
            # The client waits for a close-ok that will not come.
            self.client_write(connection_close_ok())
            self._reason = "closed"
            self.client.transport.close()
        self._end_if_over()

    def _without_broker(self, reason: str) -> None:
        """Nothing more can be passed on."""
        self._reason = reason
        extra = {"upstream": self.listener.name, "client": self.peer, "reason": reason}
        logger.warning("the broker has closed a connection", extra=extra)
        for channel in self.channels.values():
            self._drop_held(channel)

    def broker_blocked(self, reason: str) -> None:
        """The broker has an alarm, and this connection has published."""
        self.alarmed = True
        self.tell_blocked(reason)
        self._listener.alarm(self, True)

    def broker_unblocked(self) -> None:
        """The alarm is over."""
        self.alarmed = False
        self.tell_unblocked()
        self._listener.alarm(self, False)

    # -- without a broker, see kept_session --------------------------------------------------------------------------

    def mark(self) -> bytes:
        """Table entries for each message that passes, besides those of its trace."""
        return b""

    def control(self, frames: bytes) -> bytes:
        """What the client asks of the broker (no publishes, deliveries or settlements): what is to be written to it."""
        return frames

    def answers(self, number: int, found: int, data: bytes, start: int, end: int) -> None:
        """The broker says this on a channel, and it is neither a delivery nor a confirm."""

    def look(self, now: float) -> None:
        """Now and then."""

    def new_channel(self, number: int) -> Channel:
        """The client opens a channel."""
        return Channel(self, number)

    # -- channels and consumers ----------------------------------------------------------------------------------------

    def refuse_channel(self, channel: Channel, code: int, text: str, cause: int) -> None:
        """Close a channel from our side, in both directions."""
        number = channel.number
        self.client_write(channel_close(number, code, text, cause))
        self.broker_write(channel_close(number, REPLY_SUCCESS, "closed by the sidecar"))
        self.closing[number] = True
        self.refused[number] = self.refused.get(number, 0) + 1
        self.channel_gone(channel)

    def channel_gone(self, channel: Channel) -> None:
        """A channel does not exist any more; what was held for it goes with it."""
        if self.channels.pop(channel.number, None) is None:
            return
        stats = self.amqp_stats
        stats.channels -= 1
        stats.consumers -= len(channel.consumers)
        stats.unacked -= channel.unacked.count
        for stalled in channel.stalled:
            self.stalled(-1, -stalled.size())
        channel.stalled.clear()
        self.partial -= channel.received
        if isinstance(channel.incoming, Unfinished):
            channel.incoming.ends()
        self._drop_held(channel)
        self._forget_waiting(channel)
        if self._close_frame or self.client.state != OPEN:
            self._go_on_closing()

    def _drop_held(self, channel: Channel) -> None:
        dropped = self.hold.forget(channel)
        for publish in dropped:
            publish.route.stats.dropped += 1
        if dropped:
            logger.warning(
                "held messages are lost: the broker has closed their channel or connection",
                extra={"upstream": self.listener.name, "client": self.peer, "messages": len(dropped)},
            )

    def queue_declared(self, name: str) -> None:
        """The broker has shown that the queue exists: if it is to be watched, that can begin."""
        self._listener.queue_declared(self.vhost, name)

    def consumer_came(self, channel: Channel, tag: bytes, kind: int) -> None:
        """A consumer is there."""
        if tag not in channel.consumers:
            self.amqp_stats.consumers += 1
        channel.consumers[tag] = kind

    def consumer_gone(self, channel: Channel, tag: bytes) -> None:
        """A consumer was cancelled, by either side."""
        if channel.consumers.pop(tag, None) is not None:
            self.amqp_stats.consumers -= 1
            channel.give_back(tag)

    def stalled(self, count: int, size: int) -> None:
        """So many more deliveries, and bytes of them, are kept back."""
        self.amqp_stats.stalled += count
        self._stalled_bytes += size
        broker = self.broker
        if broker is not None:
            if self._stalled_bytes >= self._listener.config.hold.bytes:
                broker.stop(STALL_FULL)
            elif broker.stops & STALL_FULL:
                broker.go(STALL_FULL)

    def withholds(self, size: int) -> bool:
        """Whether a message for the client, of which so many bytes of body are to come, can wait until they have."""
        return False

    def stall(self, on: bool) -> None:
        """Keep deliveries back from now on, or hand them out again, with what was kept back."""
        if self.returning or self.stalling == on:
            return
        self.stalling = on
        if not on:
            for channel in list(self.channels.values()):
                self.client_write(channel.release())

    def stop_work(self) -> None:
        """We drain: no more deliveries. What was kept back goes to others, and so does what still comes."""
        if self.returning or self.stage != RUNNING:
            return
        self.stalling = self.returning = True
        if self.client.state != OPEN:
            return
        for channel in self.channels.values():
            for tag, kind in channel.consumers.items():
                if kind != REPLIES and not channel.ending:
                    self.broker_write(basic_cancel(channel.number, tag))
            channel.give_back()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _fail(self, error: AmqpError) -> None:
        """The client broke the protocol, or may not have what it asks for."""
        if self.client.state != OPEN:
            # It knows, or is gone. What is held of it still goes.
            if not self._busy():
                self.abort()
            return
        logger.warning(
            "an AMQP client was refused",
            extra={"upstream": self.listener.name, "client": self.peer, "reason": str(error)},
        )
        self.error = "bad_request"
        self.status = STATUS[self.error]
        self._close_client(error.code, error.text, error.method)
        if self.stage == RUNNING and not self._busy():
            self._close_broker("the client broke the protocol")
        elif self.stage == HANDSHAKE and self.broker is not None:
            self.broker.transport.close()

    def shut_down(self, reason: str) -> None:
        """End it politely."""
        if self.stage != RUNNING or self.client.state != OPEN:
            if self.client.state == OPEN:
                self.abort()
            return
        self._close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {reason}")
        if not self._busy():
            self._close_broker(reason)

    def _close_client(self, code: int, text: str, cause: int = 0) -> None:
        self._reason = self._reason or text
        self.client_write(connection_close(code, text, cause))
        self._client_is_closing()

    def _client_is_closing(self) -> None:
        """It has been told; whatever its reading waited for, its answer is awaited now."""
        client = self.client
        client.state = CLOSING
        client.stops = 0
        client.resume_reading()
        self._listener.stopped.pop(self, None)
        self._due_in(CLOSE_SECONDS)

    def _close_broker(self, reason: str) -> None:
        broker = self.broker
        if broker is not None and broker.state == OPEN:
            broker.write(connection_close(REPLY_SUCCESS, reason))
            broker.state = CLOSING
            self._due_in(CLOSE_SECONDS)

    def _end_if_over(self) -> None:
        broker = self.broker
        if self.client.state == CLOSED and (broker is None or broker.state == CLOSED):
            self.end()
            self.timer.close()

    def abort(self) -> None:
        if self.end():
            self.timer.close()
            self.client.state = CLOSED
            reset(self.client.transport)
            broker = self.broker
            if broker is not None and broker.state != CLOSED:
                broker.state = CLOSED
                if broker.transport.get_write_buffer_size():
                    broker.transport.abort()
                else:
                    broker.transport.close()  # a reset could cost what the broker has not read yet

    def end(self) -> bool:
        tunnel = self.phase == TUNNEL
        if not Exchange.end(self):
            return False
        for channel in list(self.channels.values()):
            self.channel_gone(channel)
        listener = self._listener
        stats = listener.stats
        stats.active -= 1
        if tunnel:
            stats.tunnels -= 1
        if self._linked:
            stats.upstream_active -= 1
        if self._counted:
            self.amqp_stats.connections -= 1
            del listener.sessions[self]
            logger.info(
                "an AMQP client has gone",
                extra={
                    "upstream": listener.name,
                    "client": self.peer,
                    "product": self.handshake.product,
                    "user": self.handshake.user,
                    "vhost": self.handshake.vhost,
                    "seconds": round(listener.clock() - self.started, 3),
                },
            )
        listener.forget(self)
        return True

    # -- time ----------------------------------------------------------------------------------------------------------

    def set_timer(self, deadline: float) -> None:
        self.timer.set(deadline)

    def _due_in(self, seconds: float) -> None:
        self._due = self.listener.clock() + seconds
        self._set_timer()

    def _set_timer(self) -> None:
        if self.stage == DIALLING and self.phase == CONNECTING:
            self.timer.set(self.try_deadline)
        else:
            due = min(self._due, self._next_beat)
            if due != inf:
                self.timer.set(due)

    def _on_timer(self) -> None:
        if self.phase == ENDED:
            return
        now = self.listener.clock()
        if self.stage == DIALLING:
            self.check_timer(now)
            return
        if now >= self._due:
            self._too_late(now)
        if self.phase == ENDED:
            return
        if now >= self._next_beat:
            self._next_beat = now + self._interval
            self._beat()
        if self.phase != ENDED:
            self._set_timer()

    def _too_late(self, now: float) -> None:
        """What should have ended by itself has not."""
        broker = self.broker
        if broker is not None and broker.state != CLOSED and self.stage == RUNNING:
            if broker.state == OPEN and self._busy():
                # The client did not answer its close; what is held of it still goes.
                self._due = inf
                self.client.state = CLOSED
                reset(self.client.transport)
                return
            if self.amqp_stats.blocked:
                # The broker reads nothing until its alarm is over, and what was written to it must not be thrown away.
                self._due = now + CLOSE_SECONDS
                return
        self.error = self.error or "timeout"
        self.abort()

    def _beat(self) -> None:
        broker = self.broker
        if self.client.state == OPEN and not self.client.beat() and not self.client_may_be_silent:
            logger.warning(
                "an AMQP client sends no heartbeats", extra={"upstream": self.listener.name, "client": self.peer}
            )
            self.client.state = CLOSED
            self.client.transport.abort()
        if broker is not None and broker.state == OPEN and not broker.beat():
            logger.warning("the broker at %s sends no heartbeats", broker.endpoint.address)
            broker.transport.abort()


def _long(data: bytes) -> bytes:
    return pack(">I", len(data)) + data
