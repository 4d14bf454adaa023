"""The two flows of an open connection: frames from the client to the broker, and back.

Runs of frames that pass as they are stay one slice of what was read; only what is changed, held or dropped cuts a run.
A publish (method, header and bodies on one channel) goes on only once it is whole; with a spool, so does what the
broker sends.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay import control
from sidecar.amqp.relay.channel import ACK, NO_ACK, REPLIES, Channel
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.deliveries import DISCARD, PartialMessage, PausedDelivery
from sidecar.amqp.relay.settling import settle
from sidecar.amqp.spool.intake import ID_HEADER
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
    PRECONDITION_FAILED,
    RESOURCE_ERROR,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import basic_nack, channel_close_ok, method_of, settlement
from sidecar.amqp.wire.splice import Splice

if TYPE_CHECKING:
    from sidecar.amqp.flow.partitions import Partition
    from sidecar.amqp.relay.session import Session

_u64: Final = Struct(">Q").unpack_from
#: As it stands in a table.
_ID: Final = bytes((len(ID_HEADER),)) + ID_HEADER.encode()


def from_client(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the client and pass on what may pass. Raises :class:`AmqpError` for what ends the connection;
    whatever came before it has been passed on."""
    channels = session.channels
    now = session.listener.clock()
    start = end = frames[0][2]
    splice = Splice(data, start)
    #: The channel whose publish began in ``data`` and is still incomplete, and where it began.
    opened: Channel | None = None
    begun = 0
    #: Somebody waits for an answer.
    urgent = False
    try:
        for kind, number, start, end in frames:
            channel = channels.get(number)
            if opened is not None and channel is not opened:
                # Another channel's frame in the middle of a publish: what there is of that one waits with its channel.
                _set_aside(session, opened, splice, begun, start)
                opened = None
            if channel is None:
                # Whatever this leads to must not overtake what came before it.
                urgent = True
                splice.until(start)
                session.broker_write(splice.take())
                new = control.off_channel(session, kind, number, data, start, end)
                if session.buffers and number in channels:
                    new = session.control(data[start:end])
            elif channel.pending is not None:
                session.wait(channel, data[start:end])
                new = b""
            elif kind == METHOD:
                method = method_of(data, start, end)
                if channel.route is not None:
                    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a publish", method)
                if method == BASIC_PUBLISH:
                    # Class, method and a reserved short come first; behind exchange and routing key an octet of bits.
                    if end - start < 17:
                        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.publish ends too early", method)
                    channel.route = route = session.routes.find(data[start + 13 : end - 2])
                    if route.partition is not None:
                        channel.method = data[start:end]
                    opened = channel
                    begun = start
                    continue
                if method in (BASIC_ACK, BASIC_NACK, BASIC_REJECT):
                    new = settle(session, channel, method, data, start, end)
                else:
                    urgent = True
                    splice.until(start)
                    session.broker_write(splice.take())
                    new = control.from_client(session, channel, method, data, start, end)
                    if session.buffers:
                        new = session.control(data[start:end] if new is None else new)
            elif kind in (HEADER, BODY):
                if kind == BODY:
                    _body(channel, end - start - FRAME_OVERHEAD)
                else:
                    refusal = _header(session, channel, data, start, end, begun if opened is not None else -1)
                    if refusal is not None:
                        splice.replace(begun if opened is not None else start, end, b"")
                        session.broker_write(splice.take())
                        opened = None
                        session.refuse_channel(channel, refusal.code, refusal.text, BASIC_PUBLISH)
                        continue
                if opened is None:
                    _add(session, channel, channel.piece(data, start, end))
                    splice.replace(start, end, b"")
                if channel.left == 0:
                    _whole(session, channel, splice, begun if opened is not None else -1, end, now)
                    opened = None
                continue
            else:
                raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
            if new is not None:
                splice.replace(start, end, new)
        if opened is not None:
            _set_aside(session, opened, splice, begun, end)
    except AmqpError:
        end = begun if opened is not None else start
        raise
    finally:
        splice.until(end)
        out = splice.take()
        if out:
            session.touched = now
            if urgent:
                session.broker_write(out)
            else:
                session.broker_publish(out)


def _header(session: Session, channel: Channel, data: bytes, start: int, end: int, begun: int) -> AmqpError | None:
    """The header of a publish: how long it will be, its trace and its partition. Returns why its channel has to be
    closed, if it has. ``begun`` is where its method is in ``data``; -1: that was set aside."""
    route = channel.route
    if route is None:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - content without a publish")
    if channel.left >= 0:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a second header in one publish")
    channel.left = size = content.body_size(data, start)
    if size > session.max_message_size:
        text = f"PRECONDITION_FAILED - message size {size} is larger than the sidecar's max_message_size, "
        return AmqpError(PRECONDITION_FAILED, text + str(session.max_message_size), BASIC_PUBLISH, channel.number)
    mark = instead = b""
    if session.buffers:
        if session.detached:
            # The broker would refuse it; and who may bear another's name (RabbitMQ's impersonators), only it knows.
            claimed = content.user_id(data, start, end)
            if claimed is not None and claimed != channel.user:
                text = f"user_id property set to '{claimed}' but authenticated user was '{channel.user}'"
                return AmqpError(PRECONDITION_FAILED, f"PRECONDITION_FAILED - {text}", BASIC_PUBLISH, channel.number)
        mark = session.mark()
        if mark:
            instead = _ID
    tracing = session.tracing
    trace = tracing.begin()
    contexts = tracing.contexts
    new: bytes | None = None
    if contexts:
        entries = tracing.entries(trace) + mark
        new = content.inject(data, start, end, entries, session.frame_max, False, instead, contexts)
    if new is None:
        if contexts:  # most likely it has a trace of its own
            trace = tracing.of(data, start, end)
        if mark:
            new = content.inject(data, start, end, mark, session.frame_max, True, instead)
    channel.trace = trace
    if new is not None:
        channel.header_new = new
        channel.header_start = start
        channel.header_end = end
    if route.partition is not None:
        return _partition(session, channel, route.partition, data, start, end, begun)
    return None


def _partition(
    session: Session, channel: Channel, partition: Partition, data: bytes, start: int, end: int, begun: int
) -> AmqpError | None:
    """Give the publish the routing key of its partition."""
    try:
        method = partition.rewrite(channel.method, data, start, end)
    except AmqpError as error:
        if error.channel:
            return error
        raise
    channel.method = b""
    channel.route = session.routes.find(method[13:-2])
    if begun >= 0:
        # Method and header stand side by side: both are replaced as one.
        channel.header_new = method + (channel.header_new or data[start:end])
        channel.header_start = begun
        channel.header_end = end
    else:
        channel.parts = [method]
    return None


def _body(channel: Channel, size: int) -> None:
    """A part of a publish's body."""
    if channel.route is None or channel.left < 0:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body without a header")
    channel.left -= size
    if channel.left < 0:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body longer than its header says")


def _whole(session: Session, channel: Channel, splice: Splice, begun: int, end: int, now: float) -> None:
    """A publish is complete: it passes, or is held. ``begun`` is where it begins in the run; -1: it has been taken out
    of it."""
    whole = b""
    if begun < 0:
        whole = b"".join(channel.parts)
        session.partial -= channel.received
        channel.parts = []
        channel.received = 0
    if session.buffers:
        if begun >= 0:
            whole = channel.piece(splice.data, begun, end)
            splice.replace(begun, end, b"")
        splice.out.append(channel.submit(whole, now))
        return
    gate = channel.accept(now)
    if begun < 0:
        if gate is None:
            splice.out.append(whole)
        else:
            channel.schedule(whole, gate, now)
    elif gate is None:
        if channel.header_new:
            splice.replace(channel.header_start, channel.header_end, channel.header_new)
            channel.header_new = b""
    else:
        splice.replace(begun, end, b"")
        channel.schedule(channel.piece(splice.data, begun, end), gate, now)


def _set_aside(session: Session, channel: Channel, splice: Splice, begun: int, end: int) -> None:
    """An incomplete publish is taken out of the run."""
    _add(session, channel, channel.piece(splice.data, begun, end))
    splice.replace(begun, end, b"")


def _add(session: Session, channel: Channel, piece: bytes) -> None:
    """A piece of an incomplete publish. Every piece costs something, empty ones too."""
    size = len(piece) + 64
    channel.parts.append(piece)
    channel.received += size
    session.partial += size
    if session.partial > session.partial_limit:
        raise AmqpError(RESOURCE_ERROR, "RESOURCE_ERROR - too many unfinished publishes at once")


def from_broker(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the broker and pass on what may pass. Raises :class:`AmqpError` when the broker breaks the
    protocol."""
    channels = session.channels
    start = end = frames[0][2]
    splice = Splice(data, start)
    new: bytes | None
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
                new = control.off_channel_of_broker(session, kind, number, data, start, end)
            elif kind == METHOD:
                if channel.incoming is not None or (opened is not None and opened.passing):
                    _next(channel)
                channel.delivery = None
                method = method_of(data, start, end)
                if method == BASIC_DELIVER:
                    new = _deliver(session, channel, data, start, end)
                    if buffers:
                        opened = channel
                        begun = start
                elif method in (BASIC_ACK, BASIC_NACK):
                    tag, bits = settlement(data, start, end)
                    new = channel.answered(tag, bool(bits & 1), method == BASIC_ACK)
                else:
                    splice.until(start)
                    session.client_write(splice.take())
                    if session.buffers:
                        session.answers(number, method, data, start, end)
                    new = control.from_broker(session, channel, method, data, start, end)
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
                        channel.delivery.trace = session.tracing.of(data, start, end)
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


def _next(channel: Channel) -> None:
    """A method ends the content that was coming in."""
    if channel.passing or isinstance(channel.incoming, PartialMessage):
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a message")
    channel.incoming = None


def _withhold(channel: Channel, splice: Splice, begun: int, end: int) -> None:
    """What comes next is not on this channel: if that cuts a message, all there is of it waits with its channel."""
    if channel.passing:
        splice.replace(end, end, channel.withhold(splice.withdraw(begun, end)))


def _from_refused(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes:
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
            session.consumer_pause.count(1, end - start)
            return b""
        if kind != NO_ACK:
            # We drain: it goes to somebody else at once.
            if not channel.recovering:
                session.broker_write(basic_nack(channel.number, tag - channel.offset, False, True))
            channel.incoming = DISCARD
            return b""
    channel.delivered(tag, consumer, kind != 0)
    channel.passing = -1
    return new
