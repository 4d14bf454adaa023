"""Deliveries of a channel that its client has not settled, and what the client says of them (AMQP 0-9-1 §1.8.3.12 to
14: ``basic.ack``, ``basic.reject``, ``basic.nack``, ``basic.recover``).

A client can only mean deliveries that it has got, and the broker only those of its own connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.flow.runs import Runs
from sidecar.amqp.relay.deliveries import DeliverySpan
from sidecar.amqp.wire.constants import BASIC_ACK, BASIC_NACK, BASIC_REJECT, METHOD
from sidecar.amqp.wire.methods import basic_ack, basic_nack, method_of, settlement

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session_state import SessionState


class Unacked:
    """The unsettled deliveries of one channel, by delivery tag. The broker's tags only grow (§4.7, "delivery-tag"
    domain); a client may settle them in any order, and all up to one at once."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags = Runs()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._tags.count

    def delivered(self, tag: int, note: object = None) -> bool:
        """A delivery that wants settling has gone to the client; ``note`` is whatever is to be remembered of it. Return
        whether it is one more."""
        return self._tags.put(tag, tag, note) > 0

    def delivered_run(self, first: int, last: int) -> int:
        """The same of those with consecutive tags and no notes. Return how many more they are."""
        return self._tags.put(first, last)

    def settled(self, tag: int, multiple: bool) -> list[object]:
        """The notes of the deliveries that this settles, oldest first: that of ``tag``, or with ``multiple`` of all up
        to it (all there are for tag 0). Tags that were settled or never delivered: none."""
        if multiple:
            return self.settled_run(0, tag or self._tags.last())
        return self.settled_run(tag, tag)

    def settled_run(self, first: int, last: int) -> list[object]:
        """The same of those from ``first`` to ``last``."""
        found: list[object] = []
        for begin, end, note in self._tags.take(first, last):
            found += [note] * (end - begin + 1)
        return found

    def settled_front(self, first: int, last: int) -> int:
        """The same if what there is of these are the oldest of all, with consecutive tags and no notes: how many they
        are. 0: it is not, and nothing is settled."""
        tags = self._tags
        if not tags.at_front(first, last) or tags.front() is not None:
            return 0
        return tags.take_front(last)

    def last(self) -> int:
        """The newest; 0: there is none."""
        return self._tags.last()

    def tags(self, last: int) -> list[int]:
        """Those up to ``last`` (0: all), oldest first."""
        return [tag for begin, end, _ in self._tags.all() for tag in range(begin, end + 1) if last == 0 or tag <= last]

    def clear(self) -> None:
        """The channel is gone, or everything is to be delivered again (basic.recover)."""
        self._tags.clear()


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
