"""A session: one client's connection, its connection to a broker, and what passes between them.

How it begins is in opening.py, how it ends in lifecycle.py; forward.py takes the frames, channel.py knows a channel.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.gates import Gate
from sidecar.amqp.flow.policy import RouteTable
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.relay import forward
from sidecar.amqp.relay.channel import REPLIES, Channel
from sidecar.amqp.relay.connections import HOLD_FULL, OPEN, BrokerConnection, ClientConnection
from sidecar.amqp.relay.consumer_pause import ConsumerPause
from sidecar.amqp.relay.deliveries import PartialMessage
from sidecar.amqp.relay.departure import Departure
from sidecar.amqp.relay.lifecycle import RUNNING
from sidecar.amqp.relay.opening import Opening
from sidecar.amqp.relay.publishing import Direct, PendingFrames
from sidecar.amqp.wire.constants import CHANNEL_CLOSE, METHOD, REPLY_SUCCESS, AmqpError
from sidecar.amqp.wire.methods import blocked, channel_close, unblocked
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import Policy
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.listener import AmqpListener

#: Among the bits of ``queue.declare``.
_EXCLUSIVE: Final = 4
_CHANNEL_CLOSE: Final = CHANNEL_CLOSE.to_bytes(4, "big")

logger = logging.getLogger("sidecar.amqp")


class Session(Opening):
    """One client connection as an exchange: admission, tries and accounting are those of TCP connections."""

    __slots__ = (
        "_counted",
        "_told_blocked",
        "alarmed",
        "buffers",
        "channels",
        "closing",
        "consumer_pause",
        "departure",
        "detached",
        "max_message_size",
        "partial",
        "partial_limit",
        "pending_frames",
        "policy",
        "refused",
        "routes",
        "scheduler",
        "tracing",
        "withheld",
    )  # fmt: skip

    def __init__(self, listener: AmqpListener, client: ClientConnection, peer: str, client_ip: str) -> None:
        Opening.__init__(self, listener, client, peer, client_ip)
        self.scheduler: Scheduler = listener.scheduler
        self.policy: Policy = listener.policy
        self.tracing: MessageTracing = listener.tracing
        self.routes: RouteTable = listener.policy.routes("/")
        self.max_message_size = listener.config.max_message_size
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
        self.consumer_pause = ConsumerPause(self)
        self.pending_frames = PendingFrames(self)
        self.departure = Departure(self)
        #: Publishes are kept until they are confirmed, and the session outlives its broker; there is none at present.
        self.buffers = False
        self.detached = False
        #: The broker has told this connection of an alarm; and we have told the client to publish nothing.
        self.alarmed = False
        self._told_blocked = False
        self._counted = False

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
        return sum(channel.path.held for channel in self.channels.values())

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
            confirms = channel.path.confirms
            if channel.path.held or channel.unacked.count or channel.pending is not None:
                return False
            if channel.passing or isinstance(channel.incoming, PartialMessage):
                return False
            if channel.publish.route is not None or (confirms is not None and confirms.unanswered):
                return False
        return True

    @property
    def speaks(self) -> bool:
        """There is a broker that may be told something."""
        broker = self.broker
        return broker is not None and broker.state == OPEN and not self.detached

    @property
    def told_blocked(self) -> bool:
        """The client knows that it should not publish."""
        return self._told_blocked

    @property
    def paused_deliveries(self) -> int:
        """Deliveries kept back."""
        return sum(len(channel.paused) for channel in self.channels.values())

    def is_ephemeral(self, queue: bytes) -> bool:
        """Whether a queue ends when nobody consumes from it."""
        return (self.vhost, queue.decode("utf-8", "surrogateescape")) in self._listener.ephemeral

    @property
    def hold_bytes(self) -> int:
        """How much may be held, and so much of deliveries kept back."""
        return self._listener.config.hold.bytes

    def prefetch(self, count: int) -> int:
        """The prefetch limit that a consumer gets who asks for ``count`` (0: for no limit)."""
        prefetch = self._listener.config.prefetch
        if count == 0:
            return prefetch.default
        return min(count, prefetch.max) if prefetch.max else count

    # -- what the connections hear -------------------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes came."""
        self.count_in(len(data))
        try:
            if self._close_frame:
                pass  # nothing may follow a close (§2.2.4)
            elif self.stage == RUNNING and self.client.state == OPEN:
                reader = self.client.reader
                frames = reader.feed(data)
                if frames:
                    forward.from_client(self, reader.data, frames)
                if reader.error is not None:
                    raise reader.error
            else:
                self._client_opens(data)
        except AmqpError as error:
            self.fail(error)

    def broker_said(self, broker: BrokerConnection, data: bytes) -> None:
        """Bytes came."""
        if broker is not self.broker or self.phase == ENDED:
            return
        reader = broker.reader
        frames = reader.feed(data)
        try:
            if self.stage == RUNNING:
                if frames:
                    forward.from_broker(self, reader.data, frames)
            else:
                for kind, number, start, end in frames:
                    if kind == METHOD:
                        self._broker_handshake(broker, number, reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def _broker_passes(self, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        forward.from_broker(self, data, frames)

    def _opened(self) -> None:
        Opening._opened(self)
        listener = self._listener
        self.routes = self.policy.routes(self.vhost)
        self.amqp_stats.connections += 1
        self._counted = True
        listener.sessions[self] = None
        self.consumer_pause.switch(listener.paused)
        if listener.work_is_over:
            self.consumer_pause.give_back()

    # -- without a broker, see kept_session ----------------------------------------------------------------------------

    def control(self, frames: bytes) -> bytes:
        """What the client asks of the broker (no publishes, deliveries or settlements): what is to be written to it."""
        return frames

    def answers(self, number: int, found: int, data: bytes, start: int, end: int) -> None:
        """The broker says this on a channel, and it is neither a delivery nor a confirm."""

    def withholds(self, size: int) -> bool:
        """Whether a message for the client, of which so many bytes of body are to come, can wait until they have."""
        return False

    def new_secret(self, secret: bytes) -> bytes | None:
        """``connection.update-secret``: what goes on in its place."""
        return None

    def look(self, now: float) -> None:
        """Now and then."""

    # -- what is held --------------------------------------------------------------------------------------------------

    def schedule(self, publish: Publish, gate: Gate, now: float) -> None:
        """Scheduler a publish; stop reading when that was the last one there is room for."""
        self.scheduler.enqueue(publish, gate, now)
        if self.scheduler.full and self.scheduler.crowded(gate):
            stopped = self._listener.stopped
            stopped[self] = (stopped[self][0] if self in stopped else now, gate)
            self.client.stop(HOLD_FULL)
        if self.amqp_stats.blocked:
            self.tell_blocked("the broker has an alarm")
        if self.departure.begun:
            self.departure.look()

    def read_on(self) -> None:
        """There is room again for what is held."""
        self.client.go(HOLD_FULL)

    def wait(self, channel: Channel, frame: bytes) -> None:
        """A frame that must not overtake what its channel has held."""
        self.pending_frames.add(channel, frame)
        if frame[7:11] == _CHANNEL_CLOSE and frame[0] == METHOD:
            self.departure.free(channel)

    def emptied(self, channel: Channel) -> None:
        """Nothing is held for a channel any more: what waited for that goes on."""
        if channel.pending is not None:
            try:
                self._take_in(channel)
            except AmqpError as error:
                self.fail(error)
        if self._close_frame or self.client.state != OPEN:
            self._go_on_closing()

    def _take_in(self, channel: Channel) -> None:
        """What has waited on a channel comes in now, as if it had just been read. Raises :class:`AmqpError`."""
        pending = self.pending_frames.forget(channel)
        frames: list[tuple[int, int, int, int]] = []
        start = 0
        for frame in pending:
            end = start + len(frame)
            frames.append((frame[0], frame[1] << 8 | frame[2], start, end))
            start = end
        if frames:
            forward.from_client(self, b"".join(pending), frames)

    def _goes(self) -> None:
        self.departure.begin()

    def _busy(self) -> bool:
        return any(channel.path.held or channel.pending is not None for channel in self.channels.values())

    def _drop_held(self, channel: Channel) -> None:
        dropped = self.scheduler.forget(channel.path)
        for publish in dropped:
            publish.route.stats.dropped += 1
        if dropped:
            logger.warning(
                "held messages are lost: the broker has closed their channel or connection",
                extra={"upstream": self.listener.name, "client": self.peer, "messages": len(dropped)},
            )

    # -- alarms --------------------------------------------------------------------------------------------------------

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

    # -- channels and consumers ----------------------------------------------------------------------------------------

    def new_channel(self, number: int) -> Channel:
        """The client opens a channel."""
        channel = Channel(self, number)
        channel.path = Direct(self, channel)
        return channel

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
        for paused in channel.paused:
            self.consumer_pause.count(-1, -paused.size())
        channel.paused.clear()
        self.partial -= channel.publish.size
        if isinstance(channel.incoming, PartialMessage):
            channel.incoming.ends()
        self._drop_held(channel)
        self.pending_frames.forget(channel)
        if self._close_frame or self.client.state != OPEN:
            self._go_on_closing()

    def has_queue(self, name: str, declared: bytes) -> None:
        """The client has declared a queue, not passively. ``declared``: the arguments, behind the reserved short."""
        bits = declared[1 + declared[0]]
        if bits & _EXCLUSIVE:
            self.departure.owns(name, declared)
        self._listener.ephemeral.declared(self.vhost, name, bits, declared)

    def queue_declared(self, name: str) -> None:
        """The broker has shown that the queue exists: if it is to be watched, that can begin."""
        self._listener.queue_declared(self.vhost, name)

    def consumer_came(self, channel: Channel, tag: bytes, kind: int) -> None:
        """A consumer is there."""
        if tag not in channel.consumers:
            self.amqp_stats.consumers += 1
        channel.consumers[tag] = kind
        if kind == REPLIES:
            channel.replies = True

    def consumer_gone(self, channel: Channel, tag: bytes) -> None:
        """A consumer was cancelled, by either side."""
        if channel.consumers.pop(tag, None) is not None:
            self.amqp_stats.consumers -= 1
            channel.subscriptions.pop(tag, None)
            channel.give_back((tag,))

    def pause_deliveries(self, on: bool) -> None:
        """Keep deliveries back from now on, or hand them out again."""
        self.consumer_pause.switch(on)

    def stop_work(self) -> None:
        """We drain: no more deliveries."""
        if self.stage == RUNNING:
            self.consumer_pause.give_back()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _without_broker(self, reason: str) -> None:
        Opening._without_broker(self, reason)
        for channel in self.channels.values():
            self._drop_held(channel)

    def _client_is_closing(self) -> None:
        Opening._client_is_closing(self)
        self._listener.stopped.pop(self, None)

    def end(self) -> bool:
        if not Opening.end(self):
            return False
        for channel in list(self.channels.values()):
            self.channel_gone(channel)
        listener = self._listener
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
