"""A session: one client's connection, its connection to a broker, and what belongs to both.

How it begins is in opening.py, how it ends in lifecycle.py, what there is without a broker in broker_side.py;
forward.py takes the frames, channel.py knows a channel.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay import forward
from sidecar.amqp.relay.broker_side import Attached, BrokerSide
from sidecar.amqp.relay.channel import Channel
from sidecar.amqp.relay.connections import CLOSING, HOLD_FULL, OPEN, BrokerConnection, ClientConnection, Port
from sidecar.amqp.relay.consumer_pause import ConsumerPause
from sidecar.amqp.relay.deliveries import PartialMessage
from sidecar.amqp.relay.departure import Departure
from sidecar.amqp.relay.lifecycle import GREETING, RUNNING, Lifecycle
from sidecar.amqp.relay.opening import Opening
from sidecar.amqp.relay.publishing import PendingFrames
from sidecar.amqp.wire.constants import CHANNEL_CLOSE, METHOD, REPLY_SUCCESS, AmqpError
from sidecar.amqp.wire.handshake import Handshake
from sidecar.amqp.wire.methods import blocked, channel_close, unblocked
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.phases import ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.flow.gates import Gate
    from sidecar.amqp.flow.policy import Policy, RouteTable
    from sidecar.amqp.flow.publish import Publish
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.core.replies import Reply
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.filter import Again

_CHANNEL_CLOSE: Final = CHANNEL_CLOSE.to_bytes(4, "big")

logger = logging.getLogger("sidecar.amqp")


class Session(Exchange):
    """One client connection as an exchange: admission, attempts and accounting are those of TCP connections."""

    __slots__ = (
        "_linked", "alarmed", "amqp_stats", "broker", "buffers", "channels", "client", "closing", "consumer_pause",
        "counted", "departure", "detached", "handshake", "lifecycle", "max_message_size", "opening", "partial",
        "partial_limit", "peer", "pending_frames", "policy", "port", "refused", "routes", "scheduler", "side", "stage",
        "told_blocked", "tracing", "withheld",
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
        self.max_message_size = port.config.max_message_size
        self.client = client
        #: The client's address and port.
        self.peer = peer
        self.broker: BrokerConnection | None = None
        #: How far it has come (lifecycle.py).
        self.stage = GREETING
        self.handshake = Handshake(port.config.vhosts)
        self.opening = Opening(self)
        self.lifecycle = Lifecycle(self)
        #: What is there in the broker's place.
        self.side: BrokerSide = Attached(self)
        #: Publishes are buffered until they are confirmed, and messages until they are whole, as the session outlives
        #: its broker; and there is none at present.
        self.buffers = False
        self.detached = False
        self.channels: dict[int, Channel] = {}
        #: Channels that the client has still to say close-ok to; whether the close is ours (or the broker's).
        self.closing: dict[int, bool] = {}
        #: Channels whose close of ours the broker has still to answer; how many closes.
        self.refused: dict[int, int] = {}
        #: Bytes of unfinished publishes on all channels, and how many there may be.
        self.partial = 0
        self.partial_limit = port.config.hold.bytes + port.config.max_message_size
        #: The same for messages to the client that it gets once they are whole.
        self.withheld = 0
        self.consumer_pause = ConsumerPause(self)
        self.pending_frames = PendingFrames(self)
        self.departure = Departure(self)
        #: The broker has told this connection of an alarm; and we have told the client to publish nothing.
        self.alarmed = False
        self.told_blocked = False
        #: There is a connection to a broker that counts as one; and the handshake is over.
        self._linked = False
        self.counted = False

    # -- what others ask -----------------------------------------------------------------------------------------------

    @property
    def vhost(self) -> str:
        return self.handshake.vhost

    @property
    def idle(self) -> bool:
        """Nothing would be lost or done twice by closing it now."""
        if self.stage != RUNNING or self.partial:
            return self.stage != RUNNING
        return all(channel.idle for channel in self.channels.values())

    @property
    def busy(self) -> bool:
        """Something of the client is still held."""
        for channel in self.channels.values():
            if channel.path.busy:
                return True
            pending = channel.pending
            # A client that leaves without a broker wants no more answers.
            if pending is not None and (not self.detached or any(frame[0] != METHOD for frame in pending)):
                return True
        return False

    @property
    def speaks(self) -> bool:
        """There is a broker that may be told something."""
        broker = self.broker
        return broker is not None and broker.state == OPEN and not self.detached

    def withholds(self, size: int) -> bool:
        """Whether a message for the client, of which so many bytes of body are to come, can wait until they have."""
        return self.buffers and size <= self.max_message_size and self.withheld + size <= self.partial_limit

    # -- writing -------------------------------------------------------------------------------------------------------

    def client_write(self, data: bytes) -> None:
        """Send to the client, if it is there; nothing may follow a close of ours (§2.2.4)."""
        state = self.client.state
        if data and (state == OPEN or (state == CLOSING and not self.lifecycle.reason)):
            self.count_out(len(data))
            self.client.write(data)

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

    def link(self, linked: bool) -> None:
        """Whether there is a connection to a broker that counts as one."""
        if linked != self._linked:
            self._linked = linked
            self.listener.stats.upstream_active += 1 if linked else -1

    # -- what the connections hear -------------------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes came."""
        self.count_in(len(data))
        try:
            if self.lifecycle.close_frame:
                pass  # nothing may follow a close (§2.2.4)
            elif self.stage == RUNNING and self.client.state == OPEN:
                reader = self.client.reader
                frames = reader.feed(data)
                if frames:
                    forward.from_client(self, reader.data, frames)
                if reader.error is not None:
                    raise reader.error
            else:
                self.opening.client_said(data)
        except AmqpError as error:
            self.lifecycle.fail(error)
        if self.detached:
            self.side.answer()

    def client_lost(self) -> None:
        """The client is gone, well or badly."""
        self.side.client_leaves()
        self.lifecycle.client_lost()
        self.side.client_left()

    def connected(self, broker: BrokerConnection) -> None:
        """A socket to a broker stands."""
        if not self.side.connected(broker):
            self.opening.connected(broker)

    def broker_said(self, broker: BrokerConnection, data: bytes) -> None:
        """Bytes came."""
        if self.detached and self.side.said(broker, data):
            return
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
                        self.opening.broker_said(broker, number, reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> None:
        """A connection to a broker is gone."""
        if not self.side.lost(broker) and not self.opening.broker_lost(broker, error):
            self.lifecycle.broker_lost(broker)

    def opened(self) -> None:
        """The handshake is over."""
        self.side.opened()
        self.opening.done()
        port = self.port
        self.routes = self.policy.routes(self.vhost)
        self.amqp_stats.connections += 1
        self.counted = True
        port.sessions[self] = None
        self.consumer_pause.switch(port.paused)
        if port.work_is_over:
            self.consumer_pause.give_back()

    # -- what is held --------------------------------------------------------------------------------------------------

    def schedule(self, publish: Publish, gate: Gate, now: float) -> None:
        """Scheduler a publish; stop reading when that was the last one there is room for."""
        self.scheduler.enqueue(publish, gate, now)
        if self.scheduler.full and self.scheduler.crowded(gate):
            stopped = self.port.stopped
            stopped[self] = (stopped[self][0] if self in stopped else now, gate)
            self.client.stop(HOLD_FULL)
        if self.amqp_stats.blocked:
            self.tell_blocked("the broker has an alarm")
        if self.departure.begun:
            self.departure.look()

    def wait(self, channel: Channel, frame: bytes) -> None:
        """A frame that must not overtake what its channel has held."""
        if self.side.overtakes(channel, frame):
            return
        self.pending_frames.add(channel, frame)
        if frame[7:11] == _CHANNEL_CLOSE and frame[0] == METHOD:
            self.departure.free(channel)

    def emptied(self, channel: Channel) -> None:
        """Nothing is held for a channel any more: what waited for that goes on."""
        if self.detached and self.side.waits(channel):
            return  # the broker is missing, not only what was held
        if channel.pending is not None:
            try:
                forward.take_pending(self, channel)
            except AmqpError as error:
                self.lifecycle.fail(error)
        self.lifecycle.go_on_closing()
        if self.detached:
            self.side.answer()

    # -- alarms --------------------------------------------------------------------------------------------------------

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

    # -- channels and consumers ----------------------------------------------------------------------------------------

    def new_channel(self, number: int) -> None:
        """The client opens a channel."""
        self.channels[number] = channel = Channel(self, number)
        channel.path = self.side.publish_path(channel)
        self.amqp_stats.channels += 1

    def refuse_channel(self, channel: Channel, code: int, text: str, cause: int) -> None:
        """Close a channel from our side, in both directions."""
        number = channel.number
        self.client_write(channel_close(number, code, text, cause))
        if self.side.has_channels:
            self.broker_write(channel_close(number, REPLY_SUCCESS, "closed by the sidecar"))
            self.refused[number] = self.refused.get(number, 0) + 1
        self.closing[number] = True
        self.channel_gone(channel)

    def channel_gone(self, channel: Channel) -> None:
        """A channel does not exist any more; what was held for it goes with it."""
        self.side.channel_gone(channel.number)
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
        channel.path.drop_held()
        self.pending_frames.forget(channel)
        self.lifecycle.go_on_closing()
        channel.path.close_up(self.listener.clock())

    def stop_work(self) -> None:
        """We drain: no more deliveries."""
        if self.stage == RUNNING and not self.detached:  # else it is done when there is a broker again
            self.consumer_pause.give_back()

    # -- as an exchange ------------------------------------------------------------------------------------------------

    def begin_try(self) -> None:
        if not self.side.begins_try():
            Exchange.begin_try(self)

    def retry_later(self, again: Again) -> None:
        if not self.side.retries_later(again):
            Exchange.retry_later(self, again)

    def reply(self, reply: Reply) -> None:
        if not self.side.replies(reply):
            self.opening.reply(reply)

    def open(self, attempt: Attempt) -> None:
        self.opening.open(attempt)

    def cut(self) -> None:
        self.opening.cut()

    def set_timer(self, deadline: float) -> None:
        self.lifecycle.timer.timer.set(deadline)

    def undelivered(self) -> int:
        return self.lifecycle.undelivered()

    def shut_down(self, reason: str) -> None:
        """End it politely."""
        self.lifecycle.shut_down(reason)

    def abort(self) -> None:
        self.lifecycle.abort()

    def end(self) -> bool:
        tunnel = self.phase == TUNNEL
        if self.phase != ENDED:
            self.side.ends()
        if not Exchange.end(self):
            return False
        stats = self.listener.stats
        stats.active -= 1
        if tunnel:
            stats.tunnels -= 1
        self.link(False)
        port = self.port
        port.see_to_room()
        for channel in list(self.channels.values()):
            self.channel_gone(channel)
        if self.counted:
            self.counted = False
            self.amqp_stats.connections -= 1
            del port.sessions[self]
            self.lifecycle.log_end()
        port.forget(self)
        self.side.ended()
        return True
