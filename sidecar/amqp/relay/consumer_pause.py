"""Which deliveries pass, and pauses of them: while what the app needs is away, or for good because the sidecar drains.

The broker waits for the acknowledgement of a paused delivery, and not for ever: after its ``consumer_timeout``
(RabbitMQ: 30 minutes, or less) it closes the channel, though the client has not even seen the message. So in a pause
that lasts, deliveries go back into their queues after a while, and their consumers are cancelled at the broker (else it
would deliver them again at once). After the pause the consumers begin again. The client hears nothing of that.
"""

from __future__ import annotations

from struct import Struct, pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.channel import ACK, NO_ACK, REPLIES
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.deliveries import DISCARD, PausedDelivery
from sidecar.amqp.wire.constants import BASIC_DELIVER, BASIC_QOS, SYNTAX_ERROR, AmqpError
from sidecar.amqp.wire.methods import basic_cancel, basic_nack, method

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel, Subscription
    from sidecar.amqp.relay.session_state import SessionState

_u64: Final = Struct(">Q").unpack_from

#: What each message of a stream has among its headers (RabbitMQ). It cannot go back: a nack is as good as an ack there.
_STREAM: Final = b"\x0fx-stream-offset"


class ConsumerPause:
    """That of one session. ``on``: deliveries are not handed out; ``returning``: they go back into their queues."""

    __slots__ = ("_channels", "_session", "_since", "on", "returning")

    def __init__(self, session: SessionState, channels: dict[int, Channel]) -> None:
        self._session = session
        self._channels = channels
        self.on = False
        self.returning = False
        #: When the pause began, or paused deliveries went back.
        self._since = 0.0

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def deliver(self, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
        """A message for a consumer begins: what goes to the client now; ``None``: as it came. Raises
        :class:`AmqpError`."""
        session = self._session
        at = start + 12 + data[start + 11]
        if at + 9 > end:
            raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.deliver ends too early", BASIC_DELIVER)
        tag: int = _u64(data, at)[0]
        new: bytes | None = None
        if channel.offset:
            tag += channel.offset
            new = data[start:at] + tag.to_bytes(8, "big") + data[at + 8 : end]
        consumer = data[start + 12 : at]
        kind = channel.kind(consumer)
        if channel.ending or channel.freed or session.client.state != OPEN:
            # The end of the channel gives it back, if there is nothing to wait for.
            if channel.freed and kind == ACK and not (channel.ending or channel.recovering) and session.speaks:
                session.broker_write(basic_nack(channel.number, tag - channel.offset, False, True))
            channel.incoming = DISCARD
            return b""
        if self.on and kind != REPLIES:
            if not self.returning:
                subscription = channel.subscriptions.get(consumer)
                if subscription is not None and subscription.away:
                    # It was on its way when we cancelled the consumer.
                    if not channel.recovering:
                        session.broker_write(basic_nack(channel.number, tag - channel.offset, False, True))
                    channel.incoming = DISCARD
                    return b""
                channel.incoming = paused = PausedDelivery(
                    channel, tag, consumer, kind == NO_ACK, new or data[start:end]
                )
                channel.paused.append(paused)
                session.count_paused(1, end - start)
                return b""
            if kind != NO_ACK:
                # We drain: it goes to somebody else at once.
                if not channel.recovering:
                    session.broker_write(basic_nack(channel.number, tag - channel.offset, False, True))
                channel.incoming = DISCARD
                return b""
        channel.delivered(tag, consumer, kind != 0)
        if channel.delivery is not None:
            channel.delivery.frame = data[start:end]
        channel.passing = -1
        return new

    def deliver_run(self, channel: Channel, consumer: bytes, first: int, last: int) -> bool:
        """Whole messages for a consumer, with these tags: whether they may simply pass, and are counted."""
        session = self._session
        if channel.offset or channel.ending or channel.freed or channel.asked or session.client.state != OPEN:
            return False
        if self.on or session.tracing.recording:
            return False
        channel.delivered_run(first, last, channel.kind(consumer) != ACK)
        return True

    # -- the pause -----------------------------------------------------------------------------------------------------

    def switch(self, on: bool) -> None:
        """Pause deliveries from now on, or hand them out again, the paused ones first."""
        if self.returning or self.on == on:
            return
        self.on = on
        session = self._session
        if on:
            self.begin_again()
            return
        for channel in list(self._channels.values()):
            session.client_write(channel.release())
            if session.speaks and not (channel.ending or channel.freed):
                session.broker_write(resume(channel))

    def begin_again(self) -> None:
        """Nothing is paused yet in this pause."""
        self._since = self._session.listener.clock()

    def look(self, now: float, limit: float) -> None:
        """Now and then in a pause: put deliveries back that were paused for about ``limit`` seconds."""
        session = self._session
        if self.on and not self.returning and now - self._since >= limit and session.speaks:
            self._since = now
            for channel in list(self._channels.values()):
                # In a transaction, a nack would be void until the client commits.
                if channel.paused and not (channel.ending or channel.path.one_lane or channel.recovering):
                    self._put_back(channel)

    def _put_back(self, channel: Channel) -> None:
        session = self._session
        going: dict[bytes, None] = {}
        staying: set[bytes] = set()
        for paused in channel.paused:
            header = paused.header()
            if not paused.consumer or paused.no_ack or not header or _STREAM in header:
                staying.add(paused.consumer)
            else:
                going[paused.consumer] = None
        for tag in going:
            if tag in staying:
                continue
            subscription = channel.subscriptions.get(tag)
            if subscription is not None and self._may_go(subscription):
                subscription.away = True
                session.broker_write(basic_cancel(channel.number, tag))
        channel.give_back(going.keys() - staying)
        if not any(paused.consumer for paused in channel.paused):
            session.client_write(channel.release())  # what it has fetched waits for no delivery any more

    def _may_go(self, subscription: Subscription) -> bool:
        """Whether a consumer can be cancelled and comes back. Its queue might end with it, and a place that is its
        alone might be taken. Then what it has goes back all the same, and comes again at once."""
        queue = subscription.queue
        return bool(queue) and not subscription.exclusive and not self._is_ephemeral(queue)

    def _is_ephemeral(self, queue: bytes) -> bool:
        """Whether a queue ends with its last consumer."""
        session = self._session
        return (session.vhost, queue.decode("utf-8", "surrogateescape")) in session.port.ephemeral

    def give_back(self) -> None:
        """No more deliveries. Paused ones go to others, and so do those that still come."""
        if self.returning:
            return
        self.on = self.returning = True
        session = self._session
        if session.client.state != OPEN:
            return
        for channel in self._channels.values():
            for tag, kind in channel.consumers.items():
                if kind != REPLIES and not channel.ending:
                    session.broker_write(basic_cancel(channel.number, tag))
            channel.give_back()


def resume(channel: Channel) -> bytes:
    """Begin the consumers of a channel again that are away, each with its own prefetch limit: what to tell the
    broker."""
    frames: list[bytes] = []
    limit = channel.limit
    for tag, subscription in channel.subscriptions.items():
        if subscription.away:
            subscription.away = False
            if subscription.limit != limit:
                limit = subscription.limit
                _set_limit(channel, limit, frames)
            frames.append(subscription.frame(channel.number, tag))
    if limit != channel.limit:
        _set_limit(channel, channel.limit, frames)
    return b"".join(frames)


def _set_limit(channel: Channel, limit: int, frames: list[bytes]) -> None:
    """That of each consumer to come. With RabbitMQ it ends the limit of all together, so that is set once more."""
    frames.append(method(channel.number, BASIC_QOS, pack(">IHB", 0, limit, 0)))
    channel.qos_asked.append(False)
    if channel.shared_limit >= 0:
        frames.append(method(channel.number, BASIC_QOS, pack(">IHB", 0, channel.shared_limit, 1)))
        channel.qos_asked.append(False)
