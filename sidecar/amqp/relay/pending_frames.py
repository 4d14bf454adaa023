"""Frames of a client that wait for what its channels have held, as they must not overtake it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.relay import forward
from sidecar.amqp.relay.connections import PENDING_FULL
from sidecar.amqp.relay.settling import pinned

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session import Session


class PendingFrames:
    """Those of one session; they are in :attr:`Channel.pending`. A client that has too many is not read from."""

    __slots__ = ("_bytes", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bytes = 0

    def add(self, channel: Channel, frame: bytes) -> None:
        """One more."""
        assert channel.pending is not None
        channel.pending.append(pinned(channel, frame))
        self._bytes += len(frame) + 64
        session = self._session
        if self._bytes > session.max_message_size:
            session.client.stop(PENDING_FULL)

    def forget(self, channel: Channel) -> list[bytes]:
        """What has waited on a channel; nothing of it waits any more."""
        waiting = channel.pending or []
        channel.pending = None
        if waiting:
            self._bytes -= sum(map(len, waiting)) + 64 * len(waiting)
            session = self._session
            if self._bytes <= session.max_message_size:
                session.client.go(PENDING_FULL)
        return waiting

    def take_in(self, channel: Channel) -> None:
        """They come in now, as if they had just been read. Raises :class:`AmqpError` as :func:`forward.from_client`."""
        waiting = self.forget(channel)
        frames: list[tuple[int, int, int, int]] = []
        start = 0
        for frame in waiting:
            end = start + len(frame)
            frames.append((frame[0], frame[1] << 8 | frame[2], start, end))
            start = end
        if frames:
            forward.from_client(self._session, b"".join(waiting), frames)
