"""Small writes that leave together. Sans-I/O.

A write costs a call here, and a reading and often a wake-up there, however little it carries; of what a small message
costs a broker, and an application, that is a good part. So what nobody needs at once may wait for others: for as long
as whoever gets it has much more to do before (:class:`BacklogBatch`), or for a time that somebody has chosen
(:class:`LingerBatch`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.flow.lanes import Handle

    CallLater = Callable[[float, Callable[[], None]], Handle]

#: So many bytes are not worth waiting for more, bytes.
FULL: Final = 64 << 10
#: What waits does so while so many times as much has still to be answered.
SHARE: Final = 16
#: How often what waits behind a backlog is looked at, seconds. What waits by then, and did at the look before, leaves.
LOOK_SECONDS: Final = 0.01


class WriteBatch:
    """What waits to be written to one connection. Everything leaves in the order in which it came; ``write`` takes
    it."""

    __slots__ = ("_parts", "_write", "size")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        #: Bytes that wait.
        self.size = 0
        self._write = write
        self._parts: list[bytes] = []

    def add(self, data: bytes, count: int, backlog: int) -> None:
        """Write it, soon; never before what was given earlier. ``count``: the publishes in it, or what is answered by
        it, and 0 if it is something else; ``backlog``: how many have still to be answered, these publishes included."""
        raise NotImplementedError

    def answered(self, backlog: int) -> None:
        """There were answers to what has left, and so many are still to come."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Write it now, together with all that waits."""
        if self._parts:
            self._parts.append(data)
            self.flush()
        else:
            self._write(data)

    def flush(self) -> None:
        """Write what waits now."""
        parts = self._parts
        if parts:
            self._parts = []
            self.size = 0
            self._write(parts[0] if len(parts) == 1 else b"".join(parts))

    def drop(self) -> None:
        """The connection is gone: what waits is not written any more."""
        self._parts = []
        self.size = 0

    def _wait(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)
        if self.size >= FULL:
            self.flush()


class Looks:
    """Sees to it that nothing waits behind a backlog for long, for all connections of a port: one timer wakes the
    process less often than one for each would."""

    __slots__ = ("_batches", "_call_later")

    def __init__(self, call_later: CallLater) -> None:
        self._call_later = call_later
        #: Those in which something may wait; as long as there are any, there is a timer.
        self._batches: list[BacklogBatch] = []

    def add(self, batch: BacklogBatch) -> None:
        """Look at this one, too, until nothing waits in it."""
        if not self._batches:
            self._call_later(LOOK_SECONDS, self._look)
        self._batches.append(batch)

    def _look(self) -> None:
        batches = iter(self._batches)
        self._batches = []
        try:
            for batch in batches:
                if batch.look():
                    self.add(batch)
        finally:
            # If a write of one failed, what waits in the others is not forgotten.
            for batch in batches:
                self.add(batch)


class BacklogBatch(WriteBatch):
    """Publishes wait while 16 times as many are to be answered, they included; answers while 16 times as many are to
    come.

    If answers come at an even pace, what waits leaves before a sixteenth of the backlog is done: the broker never runs
    out of work, and nobody's answer takes longer by more than about a sixteenth each way. What has no backlog leaves at
    once. At whatever pace they come, nothing waits for longer than twice :data:`LOOK_SECONDS`.
    """

    __slots__ = ("_count", "_listed", "_looks", "_old")

    def __init__(self, write: Callable[[bytes], None], looks: Looks) -> None:
        WriteBatch.__init__(self, write)
        self._looks = looks
        #: It is among those that are looked at.
        self._listed = False
        #: How many wait, and whether they did at the last look.
        self._count = 0
        self._old = False

    def add(self, data: bytes, count: int, backlog: int) -> None:
        self._count += count
        if count == 0 or backlog < SHARE * self._count:
            self._count = 0
            self.send(data)
            return
        if not self._listed:
            self._listed = True
            self._looks.add(self)
        self._wait(data)

    def answered(self, backlog: int) -> None:
        if self._parts and backlog < SHARE * self._count:
            self.flush()

    def flush(self) -> None:
        self._count = 0
        self._old = False
        WriteBatch.flush(self)

    def drop(self) -> None:
        self._count = 0
        WriteBatch.drop(self)

    def look(self) -> bool:
        """Let go what has waited for long enough; return whether something may still wait."""
        if self._old:
            self._listed = False
            self.flush()
            return False
        self._old = self._listed = bool(self._parts)
        return self._listed


class LingerBatch(WriteBatch):
    """The first write after a pause leaves at once, so whoever writes seldom loses nothing by it; what follows within
    ``linger`` (seconds, may be changed at any time) waits for the end of that time. A batch that is full leaves before,
    and so does what waits when everything that has left was answered: whoever waits for answers to what is here would
    wait in vain for more to come."""

    __slots__ = ("_call_later", "_clock", "_free", "_timer", "linger")

    def __init__(
        self, linger: float, write: Callable[[bytes], None], clock: Callable[[], float], call_later: CallLater
    ) -> None:
        WriteBatch.__init__(self, write)
        self.linger = linger
        self._clock = clock
        self._call_later = call_later
        self._timer: Handle | None = None
        #: When something may leave without waiting for more.
        self._free = -inf

    def add(self, data: bytes, count: int, backlog: int) -> None:
        if not self._parts:
            # No timer as long as nothing waits: they would cost those who write seldom more than they save.
            now = self._clock()
            wait = self._free - now
            if wait <= 0:
                self._free = now + self.linger
                self._write(data)
                return
            if self._timer is None:
                self._timer = self._call_later(wait, self._due)
        self._wait(data)

    def answered(self, backlog: int) -> None:
        if not backlog:
            self.flush()
            self._free = -inf

    def flush(self) -> None:
        if self._parts:
            self._free = self._clock() + self.linger
            WriteBatch.flush(self)

    def drop(self) -> None:
        WriteBatch.drop(self)
        timer = self._timer
        if timer is not None:
            self._timer = None
            timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.flush()
