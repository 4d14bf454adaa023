"""A channel as the relay sees it: its publish and the path that takes it, its consumers, and what they have got."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.unacked import Unacked
from sidecar.amqp.relay.connections import OPEN, PENDING_FULL
from sidecar.amqp.relay.deliveries import (
    DISCARD,
    ContentSink,
    DeliverySpan,
    IncomingMessage,
    PartialMessage,
    PausedDelivery,
    ReturnSpan,
    pinned,
)
from sidecar.amqp.relay.publishing import PIECE, IncomingPublish, PublishPath, size_at
from sidecar.amqp.wire.constants import BASIC_CONSUME, BASIC_DELIVER, BASIC_RETURN, CHANNEL_CLOSE, METHOD
from sidecar.amqp.wire.methods import basic_get_empty, basic_nack, method, method_of

if TYPE_CHECKING:
    from sidecar.amqp.relay.session_state import SessionState

#: How a consumer takes its deliveries: it acknowledges them; it need not; and they are answers to its own requests
#: (RabbitMQ's direct reply-to), which is no work and so passes in a pause, too.
ACK: Final = 0
NO_ACK: Final = 1
REPLIES: Final = 2

#: Consumers that are remembered after they were cancelled.
_MOST_DEPARTED: Final = 1000

#: Among the bits of ``basic.consume``.
_EXCLUSIVE: Final = 4
_NO_WAIT: Final = 8


class Subscription:
    """A consumer as it was asked for (§1.8.3.3 "basic.consume"), so that it can be cancelled and begun again without
    its client. ``queue`` is empty while it is not known which one an empty name meant; ``limit`` is the prefetch limit
    that it was begun with (0: none). ``away``: we have cancelled it, and it is to come back."""

    __slots__ = ("_bits", "_table", "away", "limit", "queue")

    def __init__(self, queue: bytes, bits: int, table: bytes, limit: int) -> None:
        self.queue = queue
        self.limit = limit
        self.away = False
        self._bits = bits
        self._table = table

    @property
    def exclusive(self) -> bool:
        """Nobody else may consume from its queue."""
        return bool(self._bits & _EXCLUSIVE)

    def frame(self, channel: int, tag: bytes) -> bytes:
        """The ``basic.consume`` that begins it again under its tag, and wants no answer."""
        names = b"\x00\x00" + bytes((len(self.queue),)) + self.queue + bytes((len(tag),)) + tag
        return method(channel, BASIC_CONSUME, names + bytes((self._bits | _NO_WAIT,)) + self._table)


class Removal:
    """Something that the client has asked the broker to delete or unbind: the method that asked, and its arguments."""

    __slots__ = ("arguments", "key", "method", "name", "other")

    def __init__(self, method: int, name: str, other: str, key: str, arguments: dict[str, object]) -> None:
        self.method = method
        self.name = name
        self.other = other
        self.key = key
        self.arguments = arguments


class Channel:
    """One channel of a session, from its ``channel.open`` until both sides have closed it."""

    __slots__ = (
        "asked", "consumers", "consumes", "declares", "delivery", "departed", "ending", "exchanges", "freed", "gets",
        "gone", "incoming", "last_queue", "last_tag", "limit", "number", "offset", "open", "passing", "path", "paused",
        "pending", "publish", "qos_asked", "qos_known", "recovering", "removals", "replies", "session", "shared_limit",
        "subscriptions", "unacked",
    )  # fmt: skip

    #: What takes its whole publishes; set by who makes the channel.
    path: PublishPath

    def __init__(self, session: SessionState, number: int) -> None:
        self.session = session
        self.number = number
        #: The broker has answered ``channel.open``.
        self.open = False
        self.publish = IncomingPublish(session)
        #: Frames of the client that wait until nothing is held any more, because they must not overtake it.
        self.pending: list[bytes] | None = None
        #: Consumer tag → its kind (:data:`ACK`, …); and the same for those whose ``consume-ok`` is still to come.
        self.consumers: dict[bytes, int] = {}
        self.consumes: list[tuple[bytes, int, Subscription]] = []
        #: One of its consumers takes (or took) the answers to its own requests.
        self.replies = False
        #: Requests of direct reply-to that the broker has got, and the client no answer to; counted with a spool.
        self.asked = 0
        #: The same consumers as they were asked for.
        self.subscriptions: dict[bytes, Subscription] = {}
        #: Whether each ``basic.get`` under way need not be acknowledged. (Queues of flags are bytearrays here: an empty
        #: deque takes 760 bytes, and each channel would have a few.)
        self.gets = bytearray()
        self.unacked = Unacked()
        #: The prefetch limit for consumers to come (0: none), and that of all together (-1: none was set).
        self.limit = 0
        self.shared_limit = -1
        #: The client has set a prefetch limit; and of each ``qos`` under way, whether it was the client's.
        self.qos_known = False
        self.qos_asked = bytearray()
        #: What the client has asked to be removed, and the broker has not answered.
        self.removals: deque[Removal] = deque()
        #: Of each ``queue.declare`` under way its arguments, behind the reserved short; empty: of no interest.
        self.declares: list[bytes] = []
        #: Of each ``exchange.declare`` under way name and type, if the exchange would end with its broker.
        self.exchanges: list[tuple[str, str] | None] = []
        #: What an empty queue name means: the queue declared last (§ "queue" domain).
        self.last_queue = ""
        #: Paused deliveries; who takes the content that is coming in, if not the client; and the delivery that
        #: passes, when its trace is wanted.
        self.paused: deque[PausedDelivery] = deque()
        self.incoming: ContentSink | None = None
        self.delivery: DeliverySpan | None = None
        #: What the client has still to get of the message that it is getting: its header too (-1), or so many bytes.
        self.passing = 0
        #: It is one no more.
        self.gone = False
        #: The client has closed it; the broker must hear nothing more of it.
        self.ending = False
        #: The client has closed it, or is gone, and it stays for what is held: deliveries go back.
        self.freed = False
        #: Of each ``basic.recover`` under way, whether it is the client's: what was delivered before the answer is not
        #: to be settled any more.
        self.recovering = bytearray()
        #: Consumers cancelled without waiting for an answer, whose deliveries may still come.
        self.departed: dict[bytes, int] = {}
        #: The highest delivery tag that the client has seen.
        self.last_tag = 0
        #: What to add to the broker's delivery tags to get the client's: the tags of broker channels that are gone.
        self.offset = 0

    @property
    def ready(self) -> bool:
        """Nothing of the client waits on it, and the client is not in the middle of a publish."""
        return self.pending is None and self.publish.route is None

    @property
    def idle(self) -> bool:
        """Nothing would be lost or done twice by closing it now."""
        path = self.path
        if path.held or path.backlog or self.unacked.count:
            return False
        return self.ready and not self.passing and not isinstance(self.incoming, PartialMessage)

    @property
    def closes(self) -> bool:
        """The client's ``channel.close`` is among the frames that wait."""
        return any(len(f) >= 12 and f[0] == METHOD and size_at(f, 7)[0] == CHANNEL_CLOSE for f in self.pending or ())

    # -- consumers -----------------------------------------------------------------------------------------------------

    def consumer_came(self, tag: bytes, kind: int) -> None:
        """A consumer is there."""
        if tag not in self.consumers:
            self.session.amqp_stats.consumers += 1
        self.consumers[tag] = kind
        if kind == REPLIES:
            self.replies = True

    def consumer_gone(self, tag: bytes) -> None:
        """A consumer was cancelled, by either side."""
        if self.consumers.pop(tag, None) is not None:
            self.session.amqp_stats.consumers -= 1
            self.subscriptions.pop(tag, None)
            self.give_back((tag,))

    def kind(self, consumer: bytes) -> int:
        """How a consumer takes its deliveries."""
        found = self.consumers.get(consumer)
        return self.departed.get(consumer, ACK) if found is None else found

    def depart(self, consumer: bytes) -> None:
        """A consumer is cancelled, and the client does not wait for that."""
        found = self.consumers.get(consumer)
        if found is not None:
            self.departed[consumer] = found
            if len(self.departed) > _MOST_DEPARTED:
                del self.departed[next(iter(self.departed))]

    def recovered(self) -> None:
        """The broker delivers again whatever was not settled, what is paused here too."""
        self._return_paused()
        if isinstance(self.incoming, PausedDelivery):
            self.incoming = DISCARD
        self.session.amqp_stats.unacked -= self.unacked.count
        self.unacked.clear()

    def consume_ok(self, tag: bytes) -> int:
        """The kind of a consumer that the broker has accepted. With RabbitMQ it is the queues that do, so this is not
        always the one that was asked for first."""
        for wanted in (tag, b""):
            for place, (asked, kind, subscription) in enumerate(self.consumes):
                if asked == wanted:
                    del self.consumes[place]
                    subscription.queue = subscription.queue or self.last_queue.encode("utf-8", "surrogateescape")
                    self.subscriptions[tag] = subscription
                    return kind
        return ACK

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def delivered(self, tag: int, consumer: bytes, no_ack: bool) -> None:
        """A message passes to the client, by a consumer or a ``get``."""
        session = self.session
        stats = session.amqp_stats
        stats.delivered += 1
        if tag > self.last_tag:
            self.last_tag = tag
        if self.asked and self.kind(consumer) == REPLIES:
            self.asked -= 1
        if no_ack:
            return
        if session.tracing.recording:
            self.delivery = DeliverySpan(consumer, session.listener.clock())
        if self.unacked.delivered(tag, self.delivery):
            stats.unacked += 1

    def delivered_run(self, first: int, last: int, no_ack: bool) -> None:
        """The same of messages with these tags, of which no span is wanted and none answers a request."""
        stats = self.session.amqp_stats
        stats.delivered += last - first + 1
        if last > self.last_tag:
            self.last_tag = last
        if not no_ack:
            stats.unacked += self.unacked.delivered_run(first, last)

    def hand_over(self, message: IncomingMessage) -> list[bytes]:
        """What had to wait is for the client now, and counts as delivered: its frames."""
        if message.tag:
            self.delivered(message.tag, message.consumer, message.no_ack)
            if self.delivery is not None:
                self.delivery.take_message(self.session.tracing, message)
                self.delivery = None
        elif self.session.tracing.recording and not message.began_with_header():  # else there is a span already
            ReturnSpan(b"", 0.0).take_message(self.session.tracing, message)
        return message.frames

    def withhold(self, frames: bytes) -> bytes:
        """Of a message that was to pass, only these frames have come: what the client gets of it before it has all
        come."""
        missing = self.passing
        found = method_of(frames, 0, len(frames))
        tag, consumer = 0, b""
        if found == BASIC_DELIVER:
            after = 12 + frames[11]
            consumer = frames[12:after]
            tag = int.from_bytes(frames[after : after + 8], "big")
        elif found != BASIC_RETURN:
            tag = int.from_bytes(frames[11:19], "big")
        message = PartialMessage(self, tag, consumer, True, frames, missing)
        if not self.session.withholds(max(missing, 0)):
            message.ends()
            return frames
        self.incoming = message
        self.passing = 0
        self.delivery = None
        if tag:
            message.no_ack = self._undelivered(tag)
        return b""

    def _undelivered(self, tag: int) -> bool:
        """A message that was counted as passing to the client does not, for now. Whether it need not be
        acknowledged."""
        self.last_tag = tag - 1
        stats = self.session.amqp_stats
        stats.delivered -= 1
        self.delivery = None
        if not self.unacked.settled(tag, False):
            return True
        stats.unacked -= 1
        return False

    # -- a pause -------------------------------------------------------------------------------------------------------

    def _must_wait(self, paused: PausedDelivery) -> bool:
        """Release a paused delivery; return True if its remaining frames must be buffered."""
        missing = paused.missing
        self.incoming = None
        if missing and self.session.withholds(max(missing, 0)):
            frames = b"".join(paused.frames)
            self.incoming = PartialMessage(self, paused.tag, paused.consumer, paused.no_ack, frames, missing)
            return True
        self.passing = missing
        return False

    def release(self) -> bytes:
        """Return the frames of all paused deliveries, for the client."""
        frames: list[bytes] = []
        while self.paused:
            paused = self.paused.popleft()
            self.session.count_paused(-1, -paused.size())
            if paused is not self.incoming or not self._must_wait(paused):
                frames.extend(self.hand_over(paused))
        return b"".join(frames)

    def taken_back(self, paused: PausedDelivery) -> None:
        """The broker has a paused message again: if a client waits for it in a ``basic.get``, there is none."""
        if not paused.consumer:
            self.session.client_write(basic_get_empty(self.number))

    def give_back(self, consumers: Collection[bytes] | None = None) -> None:
        """Put paused deliveries (of these consumers, or of all) back into their queues. What need not be acknowledged
        the broker has forgotten: that goes to the client after all."""
        session = self.session
        staying: deque[PausedDelivery] = deque()
        for paused in self.paused:
            if consumers is not None and paused.consumer not in consumers:
                staying.append(paused)
                continue
            session.count_paused(-1, -paused.size())
            if paused.no_ack:
                if paused is not self.incoming or not self._must_wait(paused):
                    session.client_write(b"".join(self.hand_over(paused)))
                continue
            if not self.ending and not self.recovering and session.client.state == OPEN:
                session.broker_write(basic_nack(self.number, paused.tag - self.offset, False, True))
            self.taken_back(paused)
            if paused is self.incoming:
                self.incoming = DISCARD
        self.paused = staying

    def _return_paused(self) -> None:
        """The broker has all paused deliveries again."""
        for paused in self.paused:
            self.session.count_paused(-1, -paused.size())
            self.taken_back(paused)
        self.paused.clear()

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """The broker's channel is gone, and everything that only it knew."""
        self.session.amqp_stats.unacked -= self.unacked.count
        self.unacked.clear()
        self._return_paused()
        for subscription in self.subscriptions.values():
            subscription.away = False  # all of them are begun again over the next connection
        self.recovering = self.recovering.replace(b"\x00", b"")
        self._drop_incoming()
        self.delivery = None
        self.offset = self.last_tag

    def _drop_incoming(self) -> None:
        """What has come of a message is of no use: the broker has the whole of it, and delivers that again."""
        incoming = self.incoming
        self.incoming = None
        if isinstance(incoming, PartialMessage):
            incoming.ends()
            if incoming.is_answer():
                self.session.client_write(basic_get_empty(self.number))


class PendingFrames:
    """A session's frames that wait for what their channels have held, as they must not overtake it
    (:attr:`Channel.pending`). A client that has too many is not read from."""

    __slots__ = ("_bytes", "_session")

    def __init__(self, session: SessionState) -> None:
        self._session = session
        self._bytes = 0

    def add(self, channel: Channel, frame: bytes) -> None:
        """One more."""
        assert channel.pending is not None
        channel.pending.append(pinned(channel, frame))
        self._bytes += len(frame) + PIECE
        session = self._session
        if self._bytes > session.max_message_size:
            session.client.stop(PENDING_FULL)

    def forget(self, channel: Channel) -> list[bytes]:
        """What has waited on a channel; nothing of it waits any more."""
        pending = channel.pending or []
        channel.pending = None
        if pending:
            self._bytes -= sum(map(len, pending)) + PIECE * len(pending)
            session = self._session
            if self._bytes <= session.max_message_size:
                session.client.go(PENDING_FULL)
        return pending
