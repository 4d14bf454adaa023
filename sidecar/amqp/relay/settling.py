"""What a client says of its deliveries: ``basic.ack``, ``basic.nack`` and ``basic.reject``.

It can only mean those that it has got, and the broker only those of its own connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.relay.deliveries import DeliverySpan
from sidecar.amqp.wire.constants import BASIC_ACK, BASIC_NACK, BASIC_REJECT, METHOD
from sidecar.amqp.wire.methods import basic_ack, basic_nack, method_of, settlement

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session import Session


def settle(session: Session, channel: Channel, method: int, data: bytes, start: int, end: int) -> bytes | None:
    """An ``ack``, ``nack`` or ``reject`` of deliveries."""
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
    """A frame of the client; if it settles "all so far", one that says up to which delivery that is. What is on its way
    here just now, or kept back, the client cannot have meant."""
    if len(frame) == 21 and frame[0] == METHOD and method_of(frame, 0, 21) in (BASIC_ACK, BASIC_NACK):
        tag, bits = settlement(frame, 0, 21)
        if tag == 0 and bits & 1:
            return frame[:11] + channel.unacked.last().to_bytes(8, "big") + frame[19:]
    return frame


def _around(session: Session, channel: Channel, method: int, tag: int, requeue: bool) -> bytes:
    """All deliveries up to ``tag``, but not those that are kept back: the client does not know of them."""
    frames = []
    for each in channel.unacked.tags(tag):
        if method == BASIC_ACK:
            frames.append(basic_ack(channel.number, each - channel.offset, False))
        else:
            frames.append(basic_nack(channel.number, each - channel.offset, False, requeue))
        _settled(session, channel, each, False, method == BASIC_ACK)
    return b"".join(frames)


def _settled(session: Session, channel: Channel, tag: int, multiple: bool, taken: bool) -> None:
    unacked = channel.unacked
    before = unacked.count
    for note in unacked.settled(tag, multiple):
        if isinstance(note, DeliverySpan) and note.trace is not None:
            session.tracing.consumed(note.trace, note.consumer, note.since, taken)
    session.amqp_stats.unacked -= before - unacked.count
