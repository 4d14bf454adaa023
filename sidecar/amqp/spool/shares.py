"""Who may have how much of the spool's room. What cannot move takes none from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.spool.store import Spool, StreamCount
    from sidecar.amqp.spool.transaction import StreamName

#: The part of the room that streams which stand still may have, each and all together.
SHARE: Final = 0.5
#: Seconds without a delivery after which a stream stands still; so does one of which nothing was delivered yet.
STILL: Final = 2.0
#: Seconds between two looks at all streams.
_PAUSE: Final = 1.0
#: There is room again below this part of the share.
_ROOM: Final = 0.9


class Shares:
    """How much of a spool's room each stream may have. ``moves`` says whether the broker takes messages at all: while
    it does not, all streams stand still, and whoever comes first has the room. ``clock`` is the spool's."""

    __slots__ = ("_clock", "_looked_at", "_moves", "_spool", "_still_bytes")

    def __init__(self, spool: Spool, moves: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._spool = spool
        self._moves = moves
        self._clock = clock
        self._looked_at = 0.0
        #: What is there of streams that stand still, as of the last look.
        self._still_bytes = 0

    def refuses(self, name: StreamName, again: bool = False) -> bool:
        """Whether there is no more room for this stream, though perhaps for others. ``again``: it was so before."""
        spool = self._spool
        limit = spool.max_bytes * (SHARE * _ROOM if again else SHARE)
        if spool.bytes < limit:
            return False
        stream = spool.streams.get(name)
        if stream is None or not self._moves():
            return False
        now = self._clock()
        if not _still(stream, now):
            return False
        if now - self._looked_at >= _PAUSE or now < self._looked_at:
            self._looked_at = now
            self._still_bytes = sum([it.bytes for it in spool.streams.values() if _still(it, now)])
        return stream.bytes >= limit or self._still_bytes >= limit


def _still(stream: StreamCount, now: float) -> bool:
    return not 0.0 <= now - stream.moved < STILL
