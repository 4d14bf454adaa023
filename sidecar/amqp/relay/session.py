"""A session: one client's connection, its connection to a broker, and what belongs to both.

How it begins is in opening.py, how it ends in lifecycle.py, what there is without a broker in broker_side.py;
forward.py takes the frames, channel.py knows a channel.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay import forward
from sidecar.amqp.relay.broker_side import Attached, BrokerSide
from sidecar.amqp.relay.channel import Channel, PendingFrames
from sidecar.amqp.relay.connections import HOLD_FULL, OPEN, BrokerConnection, ClientConnection
from sidecar.amqp.relay.consumer_pause import ConsumerPause
from sidecar.amqp.relay.deliveries import PartialMessage
from sidecar.amqp.relay.departure import Departure
from sidecar.amqp.relay.lifecycle import Lifecycle
from sidecar.amqp.relay.opening import Opening
from sidecar.amqp.relay.session_state import RUNNING, Port, SessionState
from sidecar.amqp.wire.constants import CHANNEL_CLOSE, METHOD, REPLY_SUCCESS, AmqpError
from sidecar.amqp.wire.methods import channel_close
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.phases import ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.flow.gates import Gate
    from sidecar.amqp.flow.lanes import Sender
    from sidecar.amqp.flow.publish import Publish
    from sidecar.core.replies import Reply
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.filter import Again

_CHANNEL_CLOSE: Final = CHANNEL_CLOSE.to_bytes(4, "big")

logger = logging.getLogger("sidecar.amqp")


class Session(SessionState):
    """One client connection as an exchange: admission, attempts and accounting are those of TCP connections."""

    __slots__ = ("channels", "consumer_pause", "counted", "departure", "lifecycle", "opening", "pending_frames", "side")

    def __init__(self, port: Port, client: ClientConnection, peer: str, client_ip: str) -> None:
        SessionState.__init__(self, port, client, peer, client_ip)
        self.opening = Opening(self)
        self.lifecycle = Lifecycle(self)
        #: What is there in the broker's place.
        self.side: BrokerSide = Attached(self)
        self.channels: dict[int, Channel] = {}
        self.pending_frames = PendingFrames(self)
        self.consumer_pause = ConsumerPause(self, self.channels)
        self.departure = Departure(self, self.channels, self.pending_frames)
        #: The handshake is over.
        self.counted = False

    # -- what others ask -----------------------------------------------------------------------------------------------

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

    # -- what the connections hear -------------------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes came."""
        self.count_in(len(data))
        try:
            if self.stage == RUNNING and forward.pass_to_broker(self, data):
                return
            if self.lifecycle.close_frame:
                pass  # nothing may follow a close (§2.2.4)
            elif self.stage == RUNNING and self.client.state == OPEN:
                reader = self.client.reader
                frames = reader.feed(data, True)
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
        if self.stage == RUNNING and forward.pass_to_client(self, broker, data):
            return
        reader = broker.reader
        frames = reader.feed(data, self.stage == RUNNING)
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
        self.known = None
        self.client.collect(port)
        self.amqp_stats.connections += 1
        self.counted = True
        port.opened(self)
        self.consumer_pause.switch(port.paused)
        if port.work_is_over:
            self.consumer_pause.give_back()

    # -- what is held --------------------------------------------------------------------------------------------------

    def schedule(self, publish: Publish, gate: Gate, now: float) -> None:
        self.scheduler.enqueue(publish, gate, now)
        if self.scheduler.full and self.scheduler.crowded(gate):
            stopped = self.port.stopped
            stopped[self] = (stopped[self][0] if self in stopped else now, gate)
            self.client.stop(HOLD_FULL)
        if self.amqp_stats.blocked:
            self.tell_blocked("the broker has an alarm")
        if self.departure.begun:
            self.departure.look()

    def request(self, frames: bytes) -> bytes:
        return self.side.request(frames)

    def hang_up(self, code: str) -> None:
        self.opening.hang_up(code)

    def wait(self, channel: Channel, frame: bytes) -> None:
        """A frame that must not overtake what its channel has held."""
        if self.side.overtakes(channel, frame):
            return
        self.pending_frames.add(channel, frame)
        if frame[7:11] == _CHANNEL_CLOSE and frame[0] == METHOD:
            self.departure.free(channel)

    def emptied(self, number: int, sender: Sender) -> None:
        if self.detached and self.side.waits(number):
            return  # the broker is missing, not only what was held
        channel = self.channels.get(number)
        if channel is not None and channel.path is sender and channel.pending is not None:
            try:
                self._take_pending(channel)
            except AmqpError as error:
                self.lifecycle.fail(error)
        self.lifecycle.go_on_closing()
        if self.detached:
            self.side.answer()

    def _take_pending(self, channel: Channel) -> None:
        """Take what has waited on a channel, as if it had just been read. Raises :class:`AmqpError`."""
        pending = self.pending_frames.forget(channel)
        frames: list[tuple[int, int, int, int]] = []
        start = 0
        for frame in pending:
            end = start + len(frame)
            frames.append((frame[0], frame[1] << 8 | frame[2], start, end))
            start = end
        if frames:
            forward.from_client(self, b"".join(pending), frames)

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
        channel.gone = True
        self.side.channel_gone(channel.number)
        if self.channels.pop(channel.number, None) is None:
            return
        stats = self.amqp_stats
        stats.channels -= 1
        stats.consumers -= len(channel.consumers)
        stats.unacked -= channel.unacked.count
        for paused in channel.paused:
            self.count_paused(-1, -paused.size())
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

    def begin_try(self, now: float = 0.0) -> None:
        if not self.side.begins_try():
            Exchange.begin_try(self, now)

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

    def end(self, now: float = 0.0) -> bool:
        tunnel = self.phase == TUNNEL
        if self.phase != ENDED:
            self.side.ends()
        if not Exchange.end(self, now):
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
            self.lifecycle.log_end()
        port.forget(self)
        self.side.ended()
        return True
