"""A channel as the relay sees it: the publish that is coming in, confirm mode, consumers, and what is kept back."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.confirms import Confirms
from sidecar.amqp.flow.gates import Gate
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.flow.scheduler import Sender
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.deliveries import (
    DISCARD,
    ContentSink,
    DeliverySpan,
    IncomingMessage,
    PartialMessage,
    PausedDelivery,
)
from sidecar.amqp.relay.unacked import Unacked
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import BASIC_DELIVER, BASIC_RETURN, CHANNEL_CLOSE, FRAME_OVERHEAD, METHOD, AmqpError
from sidecar.amqp.wire.methods import basic_ack, basic_get_empty, basic_nack, method_of

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.relay.subscription import Subscription
    from sidecar.core.trace import Trace

#: How a consumer takes its deliveries: it acknowledges them; it need not; and they are answers to its own requests
#: (RabbitMQ's direct reply-to), which is no work and so not kept from it.
ACK, NO_ACK, REPLIES = range(3)

#: Consumers that are remembered after they were cancelled.
_MOST_DEPARTED: Final = 1000

size_at: Final = Struct(">I").unpack_from


class Removal:
    """Something that the client has asked the broker to delete or unbind: the method that asked, and its arguments."""

    __slots__ = ("arguments", "key", "method", "name", "other")

    def __init__(self, method: int, name: str, other: str, key: str, arguments: dict[str, object]) -> None:
        self.method = method
        self.name = name
        self.other = other
        self.key = key
        self.arguments = arguments


class Channel(Sender):
    """One channel of a session, from its ``channel.open`` until both sides have closed it."""

    __slots__ = (
        "confirms", "consumers", "consumes", "declares", "delivery", "departed", "ending", "exchanges", "freed", "gets",
        "header_end", "header_new", "header_start", "incoming", "last_queue", "left", "limit", "method", "number",
        "offset", "open", "parts", "passing", "paused", "pending", "qos_asked", "qos_known", "received", "recovering",
        "removals", "replies", "route", "session", "shared_limit", "subscriptions", "trace", "unacked",
    )  # fmt: skip

    def __init__(self, session: Session, number: int) -> None:
        Sender.__init__(self)
        self.session = session
        self.number = number
        #: The broker has answered ``channel.open``.
        self.open = False
        #: The publish that is coming in: where it leads, and how many bytes of body are missing (-1: its header too).
        self.route: PublishRoute | None = None
        self.left = -1
        #: Its frames so far, when they came in more than one piece; and their size.
        self.parts: list[bytes] = []
        self.received = 0
        #: What to send in place of its header, which is at these positions of what is being read; empty: as it is.
        self.header_new = b""
        self.header_start = 0
        self.header_end = 0
        #: Its method, when that is to be changed once the header is known.
        self.method = b""
        self.trace: Trace | None = None
        self.confirms: Confirms | None = None
        #: Frames of the client that wait until nothing is held any more, because they must not overtake it.
        self.pending: list[bytes] | None = None
        #: Consumer tag → its kind (:data:`ACK`, …); and the same for those whose ``consume-ok`` is still to come.
        self.consumers: dict[bytes, int] = {}
        self.consumes: list[tuple[bytes, int, Subscription]] = []
        #: One of its consumers takes (or took) the answers to its own requests.
        self.replies = False
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
        #: Deliveries kept back; who takes the content that is coming in, if not the client; and the delivery that
        #: passes, when its trace is wanted.
        self.paused: deque[PausedDelivery] = deque()
        self.incoming: ContentSink | None = None
        self.delivery: DeliverySpan | None = None
        #: What the client has still to get of the message that it is getting: its header too (-1), or so many bytes.
        self.passing = 0
        #: The client has closed it; the broker must hear nothing more of it.
        self.ending = False
        #: The client has closed it, or is gone, and it stays for what is held: deliveries go back.
        self.freed = False
        #: Of each ``basic.recover`` under way, whether it is the client's: what was delivered before the answer is not
        #: to be settled any more.
        self.recovering = bytearray()
        #: Consumers cancelled without waiting for an answer, whose deliveries may still come.
        self.departed: dict[bytes, int] = {}
        #: What to add to the broker's delivery tags to get the client's: the tags of broker channels that are gone.
        self.offset = 0

    @property
    def takes(self) -> bool:
        """It gets messages, or has some that are not settled."""
        return bool(self.consumers or self.consumes or self.gets or self.unacked.count or self.paused)

    # -- publishes -----------------------------------------------------------------------------------------------------

    def piece(self, data: bytes, start: int, end: int) -> bytes:
        """The frames of the incoming publish in ``data[start:end]``, with the new header in place of the old one."""
        if not self.header_new:
            return data[start:end]
        whole = data[start : self.header_start] + self.header_new + data[self.header_end : end]
        self.header_new = b""
        return whole

    def accept(self, now: float) -> Gate | None:
        """The incoming publish is whole: count it and say what it has to wait for; ``None``: nothing, and it counts as
        passed on."""
        route = self.route
        assert route is not None
        self.left = -1
        stats = route.stats
        stats.published += 1
        gate = self.session.scheduler.closed_gate(self, route, now)
        if gate is None:
            self.route = None
            stats.forwarded += 1
            confirms = self.confirms
            if confirms is not None:
                publish = Publish(self, route, confirms.received(), b"", 0, now)
                publish.trace = self.trace
                confirms.forwarded(publish)
            elif self.trace is not None:
                self.session.tracing.published(self.trace, route, now, True)
            self.trace = None
        return gate

    def schedule(self, frames: bytes, gate: Gate, now: float) -> None:
        """The incoming publish, whole, has to wait for ``gate``; or is refused, when that is the gate's rule and the
        client can be told."""
        route = self.route
        assert route is not None
        self.route = None
        confirms = self.confirms
        tag = confirms.received() if confirms is not None else 0
        header = size_at(frames, 3)[0] + 8
        end = header + size_at(frames, header + 3)[0] + 8
        publish = Publish(self, route, tag, frames, content.priority(frames, header, end), now)
        publish.trace = self.trace
        self.trace = None
        if tag and gate.over == "nack":
            self.refuse(publish)
        else:
            self.session.schedule(publish, gate, now)

    def select_confirms(self) -> None:
        """The client wants its publishes confirmed from now on."""
        if self.confirms is None:
            self.confirms = Confirms()

    def submit(self, frames: bytes, now: float) -> bytes:
        """A whole publish, on a channel that keeps them: what is to be written to the broker now."""
        raise NotImplementedError

    def forward(self, publish: Publish) -> None:
        """A held publish may go."""
        frames = publish.frames
        publish.frames = b""
        publish.route.stats.forwarded += 1
        if self.confirms is not None:
            self.confirms.forwarded(publish)
        if publish.trace is not None and not publish.tag:
            self.session.tracing.published(publish.trace, publish.route, publish.since, True)
        self.session.broker_write(frames)

    def refuse(self, publish: Publish) -> None:
        """Tell the client that its publish was not taken."""
        publish.frames = b""
        publish.route.stats.nacked_here += 1
        if publish.trace is not None:
            self.session.tracing.published(publish.trace, publish.route, publish.since, False)
        confirms = self.confirms
        assert confirms is not None
        for tag, multiple in confirms.answers([publish.tag]):
            self.session.client_write(basic_nack(self.number, tag, multiple, False))

    def emptied(self) -> None:
        """Nothing is held for this channel any more."""
        self.session.emptied(self)

    def answered(self, number: int, multiple: bool, positive: bool) -> bytes | None:
        """The broker's answer to publishes, in the client's numbers; ``None``: as it came."""
        confirms = self.confirms
        if confirms is None:
            return None
        tags: list[int] = []
        for publish in confirms.settled(number, multiple):
            stats = publish.route.stats
            if positive:
                stats.confirmed += 1
            else:
                stats.nacked += 1
            if publish.tag:
                tags.append(publish.tag)
                if publish.trace is not None:
                    self.session.tracing.published(publish.trace, publish.route, publish.since, positive)
        if not confirms.unanswered:
            self.session.hurry()
        answers = confirms.answers(tags)
        if confirms.same:
            return None
        if positive:
            return b"".join([basic_ack(self.number, tag, many) for tag, many in answers])
        return b"".join([basic_nack(self.number, tag, many, False) for tag, many in answers])

    def closes(self) -> bool:
        """The client's ``channel.close`` is among the frames that wait."""
        return any(len(f) >= 12 and f[0] == METHOD and size_at(f, 7)[0] == CHANNEL_CLOSE for f in self.pending or ())

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
        """The broker delivers again whatever was not settled, what is kept back here too."""
        for paused in self.paused:
            self.session.consumer_pause.count(-1, -paused.size())
            self.taken_back(paused)
        if isinstance(self.incoming, PausedDelivery):
            self.incoming = DISCARD
        self.paused.clear()
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
        if no_ack:
            return
        if session.tracing.recording:
            self.delivery = DeliverySpan(consumer.decode("utf-8", "replace"), session.listener.clock())
        before = self.unacked.count
        self.unacked.delivered(tag, self.delivery)
        stats.unacked += self.unacked.count - before

    def hand_over(self, message: IncomingMessage) -> list[bytes]:
        """What had to wait is for the client now, and counts as delivered: its frames."""
        if message.tag:
            self.delivered(message.tag, message.consumer, message.no_ack)
            if self.delivery is not None:
                self.delivery.trace = self._trace(message.header())
                self.delivery = None
        return message.frames

    def _trace(self, header: bytes) -> Trace | None:
        """That of a message with this header, when it is recorded."""
        if not header:
            return None
        try:
            return self.session.tracing.of(header, 0, size_at(header, 3)[0] + FRAME_OVERHEAD)
        except AmqpError:
            return None

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
        if tag:
            message.no_ack = self.undelivered(tag)
        return b""

    def undelivered(self, tag: int) -> bool:
        """A message that was counted as passing to the client does not, for now. Whether it need not be
        acknowledged."""
        stats = self.session.amqp_stats
        stats.delivered -= 1
        self.delivery = None
        if not self.unacked.settled(tag, False):
            return True
        stats.unacked -= 1
        return False

    def _rest(self, paused: PausedDelivery) -> bool:
        """What was kept back, and has not all come in, is for the client after all: whether it has to wait for that."""
        missing = paused.missing()
        self.incoming = None
        if missing and self.session.withholds(max(missing, 0)):
            frames = b"".join(paused.frames)
            self.incoming = PartialMessage(self, paused.tag, paused.consumer, paused.no_ack, frames, missing)
            return True
        self.passing = missing
        return False

    def release(self) -> bytes:
        """What was kept back of deliveries, for the client."""
        frames: list[bytes] = []
        while self.paused:
            paused = self.paused.popleft()
            self.session.consumer_pause.count(-1, -paused.size())
            if paused is not self.incoming or not self._rest(paused):
                frames.extend(self.hand_over(paused))
        return b"".join(frames)

    def taken_back(self, paused: PausedDelivery) -> None:
        """The broker has a message again that was kept back: if a client waits for it in a ``basic.get``, there is
        none."""
        if not paused.consumer:
            self.session.client_write(basic_get_empty(self.number))

    def give_back(self, consumers: Collection[bytes] | None = None) -> None:
        """What was kept back (for these consumers, or for all) goes back into its queue. What need not be acknowledged
        the broker has forgotten: that goes to the client after all."""
        session = self.session
        kept: deque[PausedDelivery] = deque()
        for paused in self.paused:
            if consumers is not None and paused.consumer not in consumers:
                kept.append(paused)
                continue
            session.consumer_pause.count(-1, -paused.size())
            if paused.no_ack:
                if paused is not self.incoming or not self._rest(paused):
                    session.client_write(b"".join(self.hand_over(paused)))
                continue
            if not self.ending and not self.recovering and session.client.state == OPEN:
                session.broker_write(basic_nack(self.number, paused.tag - self.offset, False, True))
            self.taken_back(paused)
            if paused is self.incoming:
                self.incoming = DISCARD
        self.paused = kept
