"""The streams that are seen to, of all that are in the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from sidecar.amqp.replay.stream import Stream, StreamName

if TYPE_CHECKING:
    from sidecar.amqp.spool.store import Spool

#: How many at once: with more, those that are done make room for others, and those of which nothing has come to its
#: end for so many seconds (longer than a missing exchange is waited for).
MOST_STREAMS: Final = 4000
PATIENCE: Final = 20.0
#: A look at all names costs something; it is worth it for so many free places.
_PLACES: Final = 256


class Streams:
    """``by_name`` are those that are seen to; ``make`` begins with one more. Of the others only the spool knows, and
    each of them has its turn."""

    __slots__ = ("_make", "_others", "_spool", "by_name", "most")

    def __init__(self, spool: Spool, make: Callable[[StreamName], Stream]) -> None:
        self._spool = spool
        self._make = make
        self.by_name: dict[StreamName, Stream] = {}
        #: Those that come next, the last one first. Some may be gone by then.
        self._others: list[StreamName] = []
        self.most = MOST_STREAMS

    def __len__(self) -> int:
        return len(self.by_name)

    def find(self, name: StreamName) -> Stream | None:
        """That one; ``None``: its turn comes later."""
        stream = self.by_name.get(name)
        if stream is None and len(self.by_name) < self.most:
            stream = self.by_name[name] = self._make(name)
        return stream

    def drop(self, stream: Stream) -> None:
        """It is not seen to any more."""
        stream.unpark()
        stream.gone = True
        del self.by_name[stream.name]

    def fill(self, few: bool = False) -> None:
        """Take in as many as there are places for; ``few``: even if these are few."""
        there: Mapping[StreamName, object] = self._spool.streams
        mine = self.by_name
        free = self.most - len(mine)
        if not self._others and free > 0 and (few or (free >= min(_PLACES, self.most // 4) and len(there) > len(mine))):
            self._others = [name for name in there if name not in mine]
            self._others.reverse()
        while self._others and len(mine) < self.most:
            name = self._others.pop()
            if name in there:
                self.find(name)

    def stuck(self, now: float) -> list[Stream]:
        """Those that have to make room for others."""
        wanted = len(self._spool.streams) - len(self.by_name)
        if len(self.by_name) < self.most or wanted <= 0:
            return []
        found = [stream for stream in self.by_name.values() if now - stream.worked >= PATIENCE and stream.quiet]
        return found[:wanted]
