"""A channel of its own for messages that may close it.

They go one at a time, so that it is clear which one did it, and that nobody else's are on their way there.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.wire.constants import CHANNEL_OPEN, CONFIRM_SELECT, FRAME_OVERHEAD
from sidecar.amqp.wire.methods import method

if TYPE_CHECKING:
    from sidecar.amqp.publisher.unconfirmed import Sent

#: The channel.
PROBE_CHANNEL: Final = 3

_OPEN_FRAMES: Final = method(PROBE_CHANNEL, CHANNEL_OPEN, b"\x00") + method(PROBE_CHANNEL, CONFIRM_SELECT, b"\x00")
_CHANNEL: Final = Struct(">H")
_SIZE: Final = Struct(">I")


class ProbeChannel:
    """That of one connection. ``sent`` is what is on its way there."""

    __slots__ = ("_open", "sent")

    def __init__(self) -> None:
        self.sent: Sent | None = None
        self._open = False

    def frames(self, sent: Sent) -> bytes:
        """It is on its way: what is to be written."""
        self.sent = sent
        frames = _on_probe(sent.frames)
        if self._open:
            return frames
        self._open = True
        return _OPEN_FRAMES + frames

    def answered(self) -> Sent | None:
        """The broker has said something about what is on its way, which is over: what that was."""
        sent, self.sent = self.sent, None
        return sent

    def closed(self) -> Sent | None:
        """The broker has closed the channel: what was on its way."""
        self._open = False
        return self.answered()


def _on_probe(frames: bytes) -> bytes:
    """The same frames for this channel."""
    changed = bytearray(frames)
    start = 0
    while start < len(changed):
        _CHANNEL.pack_into(changed, start + 1, PROBE_CHANNEL)
        (size,) = _SIZE.unpack_from(changed, start + 3)
        start += size + FRAME_OVERHEAD
    return bytes(changed)
