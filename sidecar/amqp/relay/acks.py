"""Deliveries of a channel that its client has not settled, and what the client says of them (AMQP 0-9-1 §1.8.3.12 to
14: ``basic.ack``, ``basic.reject``, ``basic.nack``, ``basic.recover``).

A client can only mean deliveries that it has got, and the broker only those of its own connection.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from sidecar.amqp.relay.deliveries import DeliverySpan
from sidecar.amqp.wire.constants import BASIC_ACK, BASIC_NACK, BASIC_REJECT, METHOD
from sidecar.amqp.wire.methods import basic_ack, basic_nack, method_of, settlement

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session_state import SessionState


class Unacked:
    """The unsettled deliveries of one channel, by delivery tag. The broker's tags only grow (§4.7, "delivery-tag"
    domain); a client may settle them in any order, and all up to one at once."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: OrderedDict[int, object] = OrderedDict()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._notes)

    def delivered(self, tag: int, note: object = None) -> bool:
        """A delivery that wants settling has gone to the client; ``note`` is whatever is to be remembered of it. Return
        whether it is one more."""
        notes = self._notes
        before = len(notes)
        notes[tag] = note
        return len(notes) > before

    def settled(self, tag: int, multiple: bool) -> list[object]:
        """The notes of the deliveries that this settles, oldest first: that of ``tag``, or with ``multiple`` of all up
        to it (all there are for tag 0). Tags that were settled or never delivered: none."""
        notes = self._notes
        if not multiple:
            if tag not in notes:
                return []
            return [notes.pop(tag)]
        if tag == 0:
            found = list(notes.values())
            notes.clear()
            return found
        found = []
        while notes and next(iter(notes)) <= tag:
            found.append(notes.popitem(last=False)[1])
        return found

    def last(self) -> int:
        """The newest; 0: there is none."""
        return next(reversed(self._notes)) if self._notes else 0

    def tags(self, last: int) -> list[int]:
        """Those up to ``last`` (0: all), oldest first."""
        return [tag for tag in self._notes if last == 0 or tag <= last]

    def clear(self) -> None:
        """The channel is gone, or everything is to be delivered again (basic.recover)."""
        self._notes.clear()


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


def _settled(session: SessionState, channel: Channel, tag: int, multiple: bool, taken: bool) -> None:
    notes = channel.unacked.settled(tag, multiple)
    for note in notes:
        if isinstance(note, DeliverySpan):
            note.settled(session.tracing, taken)
    session.amqp_stats.unacked -= len(notes)
