"""Messages of the broker that do not pass to the client as they come in: they are paused, wait for their rest, or are
nobody's any more. And what the client says of those that it has got (AMQP 0-9-1 §1.8.3.12 to 14: ``basic.ack``,
``basic.reject``, ``basic.nack``, ``basic.recover``).

A client can only mean deliveries that it has got, and the broker only those of its own connection.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_GET_OK,
    BASIC_NACK,
    BASIC_REJECT,
    BODY,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments, basic_ack, basic_nack, method_of, settlement

if TYPE_CHECKING:
    from sidecar.amqp.flow.tracing import MessageTrace, MessageTracing
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session_state import SessionState

_size_at: Final = Struct(">I").unpack_from


class DeliverySpan:
    """What is remembered of a delivery until it is settled, when spans are wanted. ``trace`` is set when there is to be
    one of this delivery; ``frame`` is its method."""

    __slots__ = ("consumer", "frame", "since", "trace")

    def __init__(self, consumer: bytes, since: float) -> None:
        self.consumer = consumer
        self.frame = b""
        self.since = since
        self.trace: MessageTrace | None = None

    def take_header(self, tracing: MessageTracing, data: bytes, start: int, end: int) -> None:
        """Its content header has come. Raises :class:`AmqpError` when its properties do not fit."""
        self.trace = trace = tracing.received(data, start, end)
        if trace is None:
            self.frame = b""
        else:
            trace.describe(data, start, end)

    def take_message(self, tracing: MessageTracing, message: IncomingMessage) -> None:
        """It had to wait, and passes now. What cannot be read is left out."""
        first, header = message.frames[0], message.header()
        self.frame = first[: int(_size_at(first, 3)[0]) + FRAME_OVERHEAD]
        try:
            if header:
                self.take_header(tracing, header, 0, int(_size_at(header, 3)[0]) + FRAME_OVERHEAD)
        except AmqpError:
            pass

    def settled(self, tracing: MessageTracing, taken: bool) -> None:
        """The client has said what becomes of it."""
        if self.trace is None:
            return
        exchange = routing_key = ""
        if self.frame:
            try:
                exchange, routing_key = _whence(self.frame)
            except AmqpError:
                pass  # the broker has cut it short, for which nobody who settles it is to blame
        consumer = self.consumer.decode("utf-8", "replace")
        tracing.consumed(self.trace, consumer, exchange, routing_key, self.since, taken)


def _whence(frame: bytes) -> tuple[str, str]:
    """Exchange and routing key of a delivery, or of what was fetched. Raises :class:`AmqpError` if there are none."""
    arguments = Arguments(frame, 0, len(frame))
    if method_of(frame, 0, len(frame)) == BASIC_DELIVER:
        arguments.short_bytes()
    arguments.skip(9)  # delivery tag, redelivered
    return arguments.short(), arguments.short()


class ReturnSpan(DeliverySpan):
    """The same of a message that comes back to who has published it: it is over with its header."""

    __slots__ = ()

    def take_header(self, tracing: MessageTracing, data: bytes, start: int, end: int) -> None:
        arguments = Arguments(self.frame, 0, len(self.frame))
        code = arguments.u16()
        arguments.short_bytes()
        tracing.returned(arguments.short(), arguments.short(), code, data, start, end)


class ContentSink:
    """Takes the content of a message in the client's place. This one has no use for it."""

    __slots__ = ()

    def take(self, data: bytes, start: int, end: int) -> bytes:
        """The next frame; what the client gets now."""
        return b""


DISCARD: Final = ContentSink()


def _missing_after(missing: int, data: bytes, start: int, end: int) -> int:
    """What is missing of a message after this frame: its header too (-1), or so many bytes of body. Raises
    :class:`AmqpError` if that is not what comes next."""
    if data[start] == HEADER and missing < 0:
        return content.body_size(data, start)
    size = end - start - FRAME_OVERHEAD
    if data[start] == BODY and missing >= size:
        return missing - size
    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - the parts of a message do not fit together")


class IncomingMessage(ContentSink):
    """One for the client, in its frames. ``tag`` is its delivery tag for the client (0: it is no delivery, but comes
    back to who has published it), ``consumer`` the tag of its consumer; ``no_ack``: it need not be acknowledged."""

    __slots__ = ("channel", "consumer", "frames", "no_ack", "tag")

    def __init__(self, channel: Channel, tag: int, consumer: bytes, no_ack: bool, frames: bytes) -> None:
        self.channel = channel
        self.tag = tag
        self.consumer = consumer
        self.no_ack = no_ack
        #: Whole frames, in pieces; its method comes first.
        self.frames = [frames]

    def began_with_header(self) -> bool:
        """Whether its content header came in one piece with its method."""
        first = self.frames[0]
        return int(_size_at(first, 3)[0]) + FRAME_OVERHEAD < len(first)

    def header(self) -> bytes:
        """From its content header on, as far as that is in one piece; empty: it has not come yet."""
        if self.began_with_header():
            first = self.frames[0]
            return first[int(_size_at(first, 3)[0]) + FRAME_OVERHEAD :]
        return self.frames[1] if len(self.frames) > 1 else b""


class PausedDelivery(IncomingMessage):
    """Waits for the end of a pause. ``missing``: what is still to come of it, its header too (-1), or so many bytes of
    body."""

    __slots__ = ("missing",)

    def __init__(self, channel: Channel, tag: int, consumer: bytes, no_ack: bool, frames: bytes) -> None:
        IncomingMessage.__init__(self, channel, tag, consumer, no_ack, frames)
        self.missing = -1

    def take(self, data: bytes, start: int, end: int) -> bytes:
        self.missing = _missing_after(self.missing, data, start, end)
        self.frames.append(data[start:end])
        self.channel.session.count_paused(0, end - start)
        return b""

    def size(self) -> int:
        """Its bytes so far."""
        return sum(map(len, self.frames))


class PartialMessage(IncomingMessage):
    """Waits until it is whole: the broker may be lost before. ``missing``: so many bytes of body, or its header too
    (-1)."""

    __slots__ = ("_cost", "missing")

    def __init__(self, channel: Channel, tag: int, consumer: bytes, no_ack: bool, frames: bytes, missing: int) -> None:
        IncomingMessage.__init__(self, channel, tag, consumer, no_ack, frames)
        self.missing = missing
        #: Bytes that it counts as, among those of its session.
        self._cost = 0
        self._grow(len(frames))

    def take(self, data: bytes, start: int, end: int) -> bytes:
        session = self.channel.session
        self.frames.append(data[start:end])
        self._grow(end - start)
        self.missing = _missing_after(self.missing, data, start, end)
        fits = session.withholds(self.missing if data[start] == HEADER else 0)
        if self.missing and fits:
            return b""
        self.ends()
        channel = self.channel
        if channel.ending or session.client.state != OPEN:
            channel.incoming = DISCARD  # the end of the channel gives it back
            return b""
        channel.passing = self.missing
        return b"".join(channel.hand_over(self))

    def ends(self) -> None:
        """It waits no more."""
        self.channel.incoming = None
        self.channel.session.withheld -= self._cost
        self._cost = 0

    def is_answer(self) -> bool:
        """The client has asked for it by ``basic.get``."""
        return method_of(self.frames[0], 0, len(self.frames[0])) == BASIC_GET_OK

    def _grow(self, size: int) -> None:
        # Every piece costs something, small ones too.
        self._cost += size + 64
        self.channel.session.withheld += size + 64


def settle(session: SessionState, channel: Channel, method: int, data: bytes, start: int, end: int) -> bytes | None:
    """Take an ``ack``, ``nack`` or ``reject`` of deliveries; return what goes on in its place (``None``: itself)."""
    tag, bits = settlement(data, start, end)
    multiple = bool(bits & 1) and method != BASIC_REJECT
    if multiple and tag == 0:
        tag = channel.unacked.last()
        if tag:
            frame = pinned(channel, data[start:end])
            return settle(session, channel, method, frame, 0, end - start) or frame
        return b""
    if multiple and channel.paused and tag >= channel.paused[0].tag:
        return _around(session, channel, method, tag, bool(bits & 2))
    _settled(session, channel, tag, multiple, method == BASIC_ACK)
    offset = channel.offset
    if offset and tag:
        # Deliveries of a connection that is gone: the broker has long given them to somebody else.
        return (
            data[start : start + 11] + (tag - offset).to_bytes(8, "big") + data[start + 19 : end]
            if tag > offset
            else b""
        )
    return None


def pinned(channel: Channel, frame: bytes) -> bytes:
    """Return a frame of the client; one that settles "all so far" says up to which delivery that is. The client cannot
    have meant what is on its way here just now, or paused."""
    if len(frame) == 21 and frame[0] == METHOD and method_of(frame, 0, 21) in (BASIC_ACK, BASIC_NACK):
        tag, bits = settlement(frame, 0, 21)
        if tag == 0 and bits & 1:
            return frame[:11] + channel.unacked.last().to_bytes(8, "big") + frame[19:]
    return frame


def _around(session: SessionState, channel: Channel, method: int, tag: int, requeue: bool) -> bytes:
    """Settle all deliveries up to ``tag``, but for the paused ones: the client does not know of them."""
    frames = []
    for each in channel.unacked.tags(tag):
        if method == BASIC_ACK:
            frames.append(basic_ack(channel.number, each - channel.offset, False))
        else:
            frames.append(basic_nack(channel.number, each - channel.offset, False, requeue))
        _settled(session, channel, each, False, method == BASIC_ACK)
    return b"".join(frames)


def acked(session: SessionState, channel: Channel, first: int, last: int) -> bool:
    """Take an ``ack`` for each of these deliveries (``first`` is 0: for all up to ``last``), if that may pass as it is;
    return whether it was taken."""
    if channel.offset or (not first and channel.paused and last >= channel.paused[0].tag):
        return False
    settled = channel.unacked.settled_front(first, last)
    if settled:
        session.amqp_stats.unacked -= settled
    else:
        _noted(session, channel.unacked.settled_run(first, last), True)
    return True


def _settled(session: SessionState, channel: Channel, tag: int, multiple: bool, taken: bool) -> None:
    _noted(session, channel.unacked.settled(tag, multiple), taken)


def _noted(session: SessionState, notes: list[object], taken: bool) -> None:
    for note in notes:
        if isinstance(note, DeliverySpan):
            note.settled(session.tracing, taken)
    session.amqp_stats.unacked -= len(notes)
