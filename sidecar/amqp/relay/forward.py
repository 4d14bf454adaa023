"""The two flows of an open connection: frames from the client to the broker, and back.

Frames side by side that pass as they are stay one slice of what was read; only what is changed, held or dropped cuts
it. A publish (method, header and bodies on one channel) goes on only once it is whole; with a spool, so does what the
broker sends.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay import answers, control
from sidecar.amqp.relay.acks import settle
from sidecar.amqp.relay.channel import ACK, NO_ACK, REPLIES, Channel
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.deliveries import DISCARD, PartialMessage, PausedDelivery
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_REJECT,
    BODY,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import basic_nack, channel_close_ok, method_of, settlement
from sidecar.amqp.wire.splice import Splice

if TYPE_CHECKING:
    from sidecar.amqp.relay.session import Session

#: What a client says of deliveries.
_SETTLING: Final = frozenset({BASIC_ACK, BASIC_NACK, BASIC_REJECT})

_u64: Final = Struct(">Q").unpack_from


def from_client(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the client and pass on what may pass. Raises :class:`AmqpError` for what ends the connection;
    whatever came before it has been passed on."""
    channels = session.channels
    now = session.listener.clock()
    start = end = frames[0][2]
    splice = Splice(data, start)
    #: The channel whose publish began in ``data`` and is still incomplete.
    opened: Channel | None = None
    urgent = False  # the client waits for an answer
    try:
        for kind, number, start, end in frames:
            channel = channels.get(number)
            if opened is not None and channel is not opened:
                # Another channel's frame in the middle of a publish: what there is of that one waits with its channel.
                opened.publish.set_aside(splice, start)
                opened = None
            if channel is None:
                # Whatever this leads to must not overtake what came before it.
                urgent = True
                _write(session, splice, start)
                new = control.off_channel(session, kind, number, data, start, end)
                if session.buffers and number in channels:
                    new = session.side.request(data[start:end])
            elif channel.pending is not None:
                session.wait(channel, data[start:end])
                new = b""
            elif kind != METHOD:
                opened = _content(session, channel, opened, splice, kind, start, end, now)
                continue
            else:
                method = method_of(data, start, end)
                publish = channel.publish
                if publish.route is not None:
                    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a publish", method)
                if method == BASIC_PUBLISH:
                    publish.begin(data, start, end)
                    opened = channel
                    continue
                if method in _SETTLING:
                    new = settle(session, channel, method, data, start, end)
                else:
                    urgent = True
                    _write(session, splice, start)
                    new = control.from_client(session, channel, method, data, start, end)
                    if session.buffers:
                        new = session.side.request(data[start:end] if new is None else new)
            if new is not None:
                splice.replace(start, end, new)
        if opened is not None:
            opened.publish.set_aside(splice, end)
    except AmqpError:
        end = start if opened is None else opened.publish.begun
        raise
    finally:
        splice.until(end)
        out = splice.take()
        if out:
            session.touched = now
            _send(session, out, urgent)


def _send(session: Session, out: bytes, urgent: bool) -> None:
    """Send to the broker; what is not urgent may leave together with what comes later."""
    if urgent:
        session.broker_write(out)
    else:
        session.broker_publish(out)


def take_pending(session: Session, channel: Channel) -> None:
    """Take what has waited on a channel, as if it had just been read. Raises :class:`AmqpError`."""
    pending = session.pending_frames.forget(channel)
    frames: list[tuple[int, int, int, int]] = []
    start = 0
    for frame in pending:
        end = start + len(frame)
        frames.append((frame[0], frame[1] << 8 | frame[2], start, end))
        start = end
    if frames:
        from_client(session, b"".join(pending), frames)


def _write(session: Session, splice: Splice, end: int) -> None:
    """Let everything go to the broker that stands before ``end``."""
    splice.until(end)
    session.broker_write(splice.take())


def _content(
    session: Session,
    channel: Channel,
    opened: Channel | None,
    splice: Splice,
    kind: int,
    start: int,
    end: int,
    now: float,
) -> Channel | None:
    """A header or body of a publish. Returns ``opened``, or ``None`` when there is no such channel any more."""
    publish = channel.publish
    if kind == BODY:
        publish.take_body(end - start - FRAME_OVERHEAD)
    elif kind == HEADER:
        refusal = publish.take_header(channel.path, splice.data, start, end)
        if refusal is not None:
            splice.replace(start if opened is None else publish.begun, end, b"")
            session.broker_write(splice.take())
            session.refuse_channel(channel, refusal.code, refusal.text, BASIC_PUBLISH)
            return None
    else:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
    if opened is None:
        publish.add(splice, start, end)
    if publish.left == 0:
        channel.path.submit(publish, splice, end, now)
        return None
    return opened


def from_broker(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the broker and pass on what may pass. Raises :class:`AmqpError` when the broker breaks the
    protocol."""
    channels = session.channels
    start = end = frames[0][2]
    splice = Splice(data, start)
    buffers = session.buffers
    #: With a spool: the channel that is being talked on, and where its last message begins. The client gets whole ones,
    #: as the broker may be lost in the middle of one.
    opened: Channel | None = None
    begun = 0
    try:
        for kind, number, start, end in frames:
            channel = channels.get(number)
            if opened is not None and channel is not opened:
                _withhold(opened, splice, begun, start)
                opened = None
            if session.refused and number in session.refused:
                new = _from_refused(session, kind, number, data, start, end)
            elif channel is None:
                # A close must not overtake what came before it.
                splice.until(start)
                session.client_write(splice.take())
                new = answers.off_channel(session, kind, number, data, start, end)
            elif kind == METHOD:
                if channel.incoming is not None or (opened is not None and opened.passing):
                    _next(channel)
                channel.delivery = None
                method = method_of(data, start, end)
                if method in (BASIC_ACK, BASIC_NACK):
                    tag, bits = settlement(data, start, end)
                    new = channel.path.answered(tag, bool(bits & 1), method == BASIC_ACK)
                else:
                    if method == BASIC_DELIVER:
                        new = _deliver(session, channel, data, start, end)
                    else:
                        new = _answer(session, channel, splice, method, start, end)
                    if buffers:
                        opened = channel
                        begun = start
            elif channel.incoming is not None:
                new = channel.incoming.take(data, start, end)
            else:
                if kind == BODY:
                    channel.passing -= end - start - FRAME_OVERHEAD
                elif kind == HEADER:
                    channel.passing = content.body_size(data, start)
                    if channel.delivery is not None:
                        _describe(session, channel, data, start, end)
                continue
            if new is not None:
                splice.replace(start, end, new)
    except AmqpError:
        end = start
        raise
    finally:
        if opened is not None:
            _withhold(opened, splice, begun, end)
        splice.until(end)
        session.client_write(splice.take())


def _describe(session: Session, channel: Channel, data: bytes, start: int, end: int) -> None:
    """The header of a delivery that is to be a span, or of what else is."""
    note = channel.delivery
    channel.delivery = None
    if note is not None:
        note.take_header(session.tracing, data, start, end)


def _answer(session: Session, channel: Channel, splice: Splice, method: int, start: int, end: int) -> bytes | None:
    """Neither a delivery nor a confirm: what it leads to must not overtake what came before it."""
    splice.until(start)
    session.client_write(splice.take())
    session.side.answered(channel.number, method, splice.data, start, end)
    return answers.from_broker(session, channel, method, splice.data, start, end)


def _next(channel: Channel) -> None:
    """A method ends the content that was coming in."""
    if channel.passing or isinstance(channel.incoming, PartialMessage):
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a message")
    channel.incoming = None


def _withhold(channel: Channel, splice: Splice, begun: int, end: int) -> None:
    """What comes next is not on this channel: if that cuts a message, all there is of it waits with its channel."""
    if channel.passing:
        splice.replace(end, end, channel.withhold(splice.withdraw(begun, end)))


def _from_refused(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """On a channel that we have closed the broker still talks about the old one, until it has answered."""
    if kind == METHOD:
        method = method_of(data, start, end)
        if method == CHANNEL_CLOSE_OK:
            closes = session.refused[number] - 1
            if closes:
                session.refused[number] = closes
            else:
                del session.refused[number]
        elif method == CHANNEL_CLOSE:  # both at once
            session.broker_write(channel_close_ok(number))
    return b""


def _deliver(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A message for a consumer begins."""
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
    if session.consumer_pause.on and kind != REPLIES:
        if not session.consumer_pause.returning:
            subscription = channel.subscriptions.get(consumer)
            if subscription is not None and subscription.away:
                # It was on its way when we cancelled the consumer.
                if not channel.recovering:
                    session.broker_write(basic_nack(channel.number, tag - channel.offset, False, True))
                channel.incoming = DISCARD
                return b""
            channel.incoming = paused = PausedDelivery(channel, tag, consumer, kind == NO_ACK, new or data[start:end])
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
