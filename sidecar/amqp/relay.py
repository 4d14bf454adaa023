"""The two flows of an open connection: frames from the client to the broker, and back.

Runs of frames that pass as they are stay one slice of what was read; only what is changed, held or dropped cuts a run.
A publish (method, header and bodies on one channel) goes on only once it is whole.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp import content, control
from sidecar.amqp.channel import Channel, Delivery, Stalled
from sidecar.amqp.methods import basic_ack, basic_nack, method_of, settlement
from sidecar.amqp.spec import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_REJECT,
    BODY,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    PRECONDITION_FAILED,
    RESOURCE_ERROR,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)

if TYPE_CHECKING:
    from sidecar.amqp.session import Session

_u64: Final = Struct(">Q").unpack_from


def from_client(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the client and pass on what may pass. Raises :class:`AmqpError` for what ends the connection;
    whatever came before it has been passed on."""
    channels = session.channels
    out: list[bytes] = []
    #: Where the run begins that is still to be passed on; and the channel whose publish began in ``data``, and where.
    run = frames[0][2]
    opened: Channel | None = None
    begun = 0
    now = session.listener.clock()
    end = run
    try:
        for kind, number, start, end in frames:
            channel = channels.get(number)
            if opened is not None and channel is not opened:
                # Another channel's frame in the middle of a publish: what there is of that one waits with its channel.
                _set_aside(opened, data, begun, start, out, run)
                run = start
                opened = None
            if channel is None:
                new = control.off_channel(session, kind, number, data, start, end)
            elif channel.waiting is not None:
                session.wait(channel, data[start:end])
                new = b""
            elif kind == METHOD:
                method = method_of(data, start, end)
                if channel.route is not None:
                    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a publish", method)
                if method == BASIC_PUBLISH:
                    # class, method and a reserved short come first; behind exchange and routing key an octet of bits.
                    if end - start < 17:
                        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.publish ends too early", method)
                    channel.route = session.routes.find(data[start + 13 : end - 2])
                    opened = channel
                    begun = start
                    continue
                if method in (BASIC_ACK, BASIC_NACK, BASIC_REJECT):
                    new = _settle(session, channel, method, data, start, end)
                else:
                    new = control.from_client(session, channel, method, data, start, end)
            elif kind in (HEADER, BODY):
                if channel.route is None:
                    raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - content without a publish")
                if kind == HEADER:
                    if not _header(session, channel, data, start, end):
                        # Too large: the channel is closed, with all that there is of this publish.
                        if opened is not None:
                            if run < begun:
                                out.append(data[run:begun])
                            opened = None
                        elif run < start:
                            out.append(data[run:start])
                        run = end
                        continue
                else:
                    if channel.left < 0:
                        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body before its header")
                    channel.left -= end - start - FRAME_OVERHEAD
                    if channel.left < 0:
                        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body longer than its header says")
                if opened is None:
                    if run < start:
                        out.append(data[run:start])
                    run = end
                    _add(session, channel, channel.piece(data, start, end))
                if channel.left:
                    continue
                # The publish is whole.
                gate = channel.accept(now)
                if gate is None:
                    if opened is None:
                        out.extend(channel.parts)
                        _clear(session, channel)
                    elif channel.header_new:
                        out.append(data[run : channel.header_start])
                        out.append(channel.header_new)
                        channel.header_new = b""
                        run = channel.header_end
                elif opened is None:
                    whole = b"".join(channel.parts)
                    _clear(session, channel)
                    channel.keep(whole, gate, now)
                else:
                    if run < begun:
                        out.append(data[run:begun])
                    run = end
                    channel.keep(channel.piece(data, begun, end), gate, now)
                opened = None
                continue
            else:
                raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
            if new is not None:
                if run < start:
                    out.append(data[run:start])
                run = end
                if new:
                    out.append(new)
        if opened is not None:
            _set_aside(opened, data, begun, end, out, run)
            run = end
    except AmqpError:
        end = begun if opened is not None else start
        raise
    finally:
        if run < end:
            out.append(data[run:end])
        if out:
            session.touched = now
            session.broker_write(out[0] if len(out) == 1 else b"".join(out))


def _set_aside(channel: Channel, data: bytes, begun: int, end: int, out: list[bytes], run: int) -> None:
    """An incomplete publish is taken out of the run."""
    if run < begun:
        out.append(data[run:begun])
    _add(channel.session, channel, channel.piece(data, begun, end))


def _add(session: Session, channel: Channel, piece: bytes) -> None:
    channel.parts.append(piece)
    channel.received += len(piece)
    session.partial += len(piece)
    if session.partial > session.partial_limit:
        raise AmqpError(RESOURCE_ERROR, "RESOURCE_ERROR - too many unfinished publishes at once")


def _clear(session: Session, channel: Channel) -> None:
    channel.parts = []
    session.partial -= channel.received
    channel.received = 0


def _header(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bool:
    """The header of a publish: how long it will be, and its trace. ``False``: too long, and its channel was closed."""
    if channel.left >= 0:
        raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a second header in one publish")
    if end - start < 22:
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a content header is too short")
    size = content.body_size(data, start)
    if size > session.max_message_size:
        _clear(session, channel)
        text = f"PRECONDITION_FAILED - message size {size} is larger than the sidecar's max_message_size, "
        session.refuse_channel(channel, PRECONDITION_FAILED, text + str(session.max_message_size), BASIC_PUBLISH)
        return False
    channel.left = size
    tracing = session.tracing
    trace = tracing.begin()
    new = content.inject(data, start, end, tracing.entries(trace), session.frame_max)
    if new is not None:
        channel.header_new = new
        channel.header_start = start
        channel.header_end = end
        channel.trace = trace
    elif tracing.recording:
        given = content.traceparent(data, start, end)
        channel.trace = tracing.follow(given) if given is not None else None
    return True


def _settle(session: Session, channel: Channel, method: int, data: bytes, start: int, end: int) -> bytes | None:
    """An ``ack``, ``nack`` or ``reject`` of deliveries."""
    tag, bits = settlement(data, start, end)
    multiple = bool(bits & 1) and method != BASIC_REJECT
    unacked = channel.unacked
    new: bytes | None = None
    if multiple and not tag and channel.stalled:
        # "All so far": the client has not seen those that are kept back.
        tag = channel.stalled[0].tag - 1
        if method == BASIC_ACK:
            new = basic_ack(channel.number, tag, True) if tag else b""
        else:
            new = basic_nack(channel.number, tag, True, bool(bits & 2)) if tag else b""
    before = unacked.count
    for note in unacked.settled(tag, multiple):
        if isinstance(note, Delivery) and note.trace is not None:
            session.tracing.consumed(note.trace, note.consumer, note.since, method == BASIC_ACK)
    session.amqp_stats.unacked -= before - unacked.count
    return new


def from_broker(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames of the broker and pass on what may pass. Raises :class:`AmqpError` when the broker breaks the
    protocol."""
    channels = session.channels
    out: list[bytes] = []
    run = frames[0][2]
    end = run
    try:
        for kind, number, start, end in frames:
            channel = channels.get(number)
            if channel is None:
                new = control.off_channel_of_broker(session, kind, number, data, start, end)
            elif kind == METHOD:
                channel.collecting = None
                channel.dropping = False
                channel.delivery = None
                method = method_of(data, start, end)
                if method == BASIC_DELIVER:
                    new = _deliver(session, channel, data, start, end)
                elif method in (BASIC_ACK, BASIC_NACK):
                    tag, bits = settlement(data, start, end)
                    new = channel.answered(tag, bool(bits & 1), method == BASIC_ACK)
                else:
                    new = control.from_broker(session, channel, method, data, start, end)
            elif channel.collecting is not None:
                stalled = channel.collecting
                stalled.frames.append(data[start:end])
                session.stalled(0, end - start)
                new = b""
            elif channel.dropping:
                new = b""
            else:
                if kind == HEADER and channel.delivery is not None:
                    given = content.traceparent(data, start, end)
                    channel.delivery.trace = session.tracing.follow(given) if given is not None else None
                continue
            if new is not None:
                if run < start:
                    out.append(data[run:start])
                run = end
                if new:
                    out.append(new)
    finally:
        if run < end:
            out.append(data[run:end])
        if out:
            session.client_write(out[0] if len(out) == 1 else b"".join(out))


def _deliver(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A message for a consumer begins."""
    size = data[start + 11]
    at = start + 12 + size
    if at + 9 > end:
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.deliver ends too early", BASIC_DELIVER)
    tag: int = _u64(data, at)[0]
    consumer = data[start + 12 : at]
    no_ack = channel.consumers.get(consumer, False)
    if session.stalling and not (session.returning and no_ack):
        if session.returning:
            # We drain: it goes to somebody else at once.
            session.broker_write(basic_nack(channel.number, tag, False, True))
            channel.dropping = True
            return b""
        channel.collecting = stalled = Stalled(tag, consumer, no_ack, data[start:end])
        channel.stalled.append(stalled)
        session.stalled(1, end - start)
        return b""
    channel.delivered(tag, consumer, no_ack)
    return None
