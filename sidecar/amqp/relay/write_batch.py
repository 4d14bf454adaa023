"""Batches: small writes to a broker are collected for a short time, and leave as one. Sans-I/O.

The first write after a pause leaves at once, so whoever writes seldom loses nothing by it; what follows it within
``linger`` waits for the end of that time. A batch that is full leaves before. Whoever waits for the answers to what it
has written would wait in vain for more to come: it says so (:meth:`WriteBatch.hurry`). Everything leaves in the order
in which it came.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.flow.scheduler import Handle

#: So many bytes are not worth waiting for more, bytes.
FULL: Final = 64 << 10


class WriteBatch:
    """What is collected for one connection. ``linger`` (seconds) is the longest that anything waits, and may be changed
    at any time; ``write`` takes what leaves."""

    __slots__ = ("_call_later", "_clock", "_free", "_parts", "_timer", "_write", "linger", "size")

    def __init__(
        self,
        linger: float,
        write: Callable[[bytes], None],
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Handle],
    ) -> None:
        self.linger = linger
        #: Bytes that wait.
        self.size = 0
        self._write = write
        self._clock = clock
        self._call_later = call_later
        self._parts: list[bytes] = []
        self._timer: Handle | None = None
        #: When something may leave without waiting for more.
        self._free = -inf

    def add(self, data: bytes) -> None:
        """Write it, soon; never before what was given earlier."""
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
        self._parts.append(data)
        self.size += len(data)
        if self.size >= FULL:
            self.flush()

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
            self._free = self._clock() + self.linger
            self._write(parts[0] if len(parts) == 1 else b"".join(parts))

    def hurry(self) -> None:
        """All that has left was answered: what waits leaves, and what comes next leaves at once."""
        if self._parts:
            self.flush()
        self._free = -inf

    def close(self) -> None:
        """Write what waits, and leave no timer behind."""
        self.hurry()
        timer = self._timer
        if timer is not None:
            self._timer = None
            timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.flush()
