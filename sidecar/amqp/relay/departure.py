"""Frees what a client leaves at its broker, when it goes or closes while publishes of it are held.

Its broker connection, or its channel, has to stay for those publishes. All else would end at once if the client had
dialled the broker itself: its consumers, its unsettled deliveries (they go back into their queues), and the exclusive
queues of its connection (RabbitMQ deletes them when that ends; §1.7.2.1 "exclusive"). So it ends at once here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.channel import REPLIES
from sidecar.amqp.relay.deliveries import settle
from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_NACK,
    BASIC_REJECT,
    CHANNEL_OPEN,
    METHOD,
    QUEUE_DECLARE,
    REPLY_SUCCESS,
    TX_COMMIT,
    TX_ROLLBACK,
    TX_SELECT,
    AmqpError,
)
from sidecar.amqp.wire.methods import basic_cancel, basic_recover, channel_close, method, method_of, queue_delete

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel, PendingFrames
    from sidecar.amqp.relay.session_state import SessionState

#: Exclusive queues that are remembered of one connection; with more, the oldest last as long as the connection.
MAX_QUEUES: Final = 256


class Departure:
    """That of one session. ``begun``: the client has gone, or has said that it goes."""

    __slots__ = ("_channels", "_done", "_pending_frames", "_queues", "_session", "begun")

    def __init__(self, session: SessionState, channels: dict[int, Channel], pending_frames: PendingFrames) -> None:
        self._session = session
        self._channels = channels
        self._pending_frames = pending_frames
        self.begun = False
        self._done = False
        #: Exclusive queues of the connection, by name, with the arguments of the ``queue.declare`` that made them,
        #: behind the reserved short; empty: the broker made up the name.
        self._queues: dict[str, bytes] = {}

    @property
    def matters(self) -> bool:
        """Something hangs on the broker connection that others may wait for."""
        return bool(self._queues) or any(map(_takes, self._channels.values()))

    def owns(self, name: str, declared: bytes) -> None:
        """The connection has an exclusive queue of this name; ``declared`` as in the arguments of its declaration."""
        self._queues[name] = declared if declared[0] else b""
        if len(self._queues) > MAX_QUEUES:
            del self._queues[next(iter(self._queues))]

    def deleted(self, name: str) -> None:
        """The client has deleted a queue of this name."""
        self._queues.pop(name, None)

    def begin(self) -> None:
        """The client goes; or there is another broker for one that does."""
        self.begun = True
        self._done = False
        self.look()

    def look(self) -> None:
        """Free all, if the client goes and its connection has to stay."""
        session = self._session
        if self._done or not session.speaks or not any(map(_stays, self._channels.values())):
            return
        self._done = True
        for channel in list(self._channels.values()):
            self.free(channel)
        self._delete_queues()

    def free(self, channel: Channel) -> None:
        """Cancel the consumers of a channel that only stays for what is held of it, and put back its deliveries. What
        still comes goes back, too."""
        session = self._session
        channel.freed = True
        if not session.speaks or channel.ending or not _takes(channel):
            return
        frames: list[bytes] = []
        # What it has settled is the transaction's, and has to wait for its end; unless that never comes.
        commits = TX_COMMIT in map(_method, channel.pending or ())
        if channel.pending is not None and not commits:
            frames.extend(self._settle(channel))
        if not commits:
            channel.recovering.append(False)
        for tag, kind in list(channel.consumers.items()):
            if kind != REPLIES:  # a held request may not go without that
                frames.append(self.cancel(channel, tag))
        if not commits:
            if channel.path.one_lane:
                frames.append(method(channel.number, TX_ROLLBACK))
            frames.append(basic_recover(channel.number))
        session.broker_write(b"".join(frames))

    def cancel(self, channel: Channel, tag: bytes) -> bytes:
        """The client is no longer interested in this consumer of a freed channel: what to tell the broker."""
        session = self._session
        channel.depart(tag)
        channel.consumer_gone(tag)
        return session.request(basic_cancel(channel.number, tag))

    def _settle(self, channel: Channel) -> list[bytes]:
        """What the client has said of deliveries, and waits: that need wait for nothing any more. In a transaction that
        nobody commits, it is void."""
        session = self._session
        said: list[bytes] = []
        waiting = self._pending_frames.forget(channel)
        channel.pending = []
        void = channel.path.one_lane
        for frame in waiting:
            found = _method(frame)
            void = void or found == TX_SELECT
            if found not in (BASIC_ACK, BASIC_NACK, BASIC_REJECT):
                self._pending_frames.add(channel, frame)
            elif not void:
                try:
                    new = settle(session, channel, found, frame, 0, len(frame))
                except AmqpError:
                    continue
                said.append(frame if new is None else new)
        return said

    def _delete_queues(self) -> None:
        """Over a channel of our own: whatever the broker refuses costs no more than that."""
        session = self._session
        if not self._queues:
            return
        taken = (self._channels, session.closing, session.refused)
        for number in range(session.handshake.channel_max or 65_535, 0, -1):
            if not any(number in numbers for numbers in taken):
                break
        else:
            return
        frames = [method(number, CHANNEL_OPEN, b"\x00")]
        # Nobody else can have made up the broker's own names.
        frames += [queue_delete(number, name) for name, declared in self._queues.items() if not declared]
        for name, declared in self._queues.items():
            if declared:
                # It may be somebody else's by now. Then this is refused, and ends the channel.
                frames += (method(number, QUEUE_DECLARE, b"\x00\x00" + declared), queue_delete(number, name))
        frames.append(channel_close(number, REPLY_SUCCESS, ""))
        session.refused[number] = 1
        session.broker_write(b"".join(frames))


def _takes(channel: Channel) -> bool:
    """Whether it gets messages, or has some that are not settled."""
    return bool(channel.consumers or channel.consumes or channel.gets or channel.unacked.count or channel.paused)


def _stays(channel: Channel) -> bool:
    return channel.path.held > 0 or channel.pending is not None


def _method(frame: bytes) -> int:
    """Which method a frame is; 0: none."""
    return method_of(frame, 0, len(frame)) if frame[0] == METHOD and len(frame) >= 12 else 0
