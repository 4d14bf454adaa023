"""So many at once, and a queue before them that is fair to those who ask: none of them can starve the others.

Each key (an agent, say) has a line of its own. A free slot goes to the key that holds the fewest slots, and of those to
the one whose turn is longest ago: round robin among all that wait (Nagle, "On Packet Switches With Infinite Storage",
RFC 970). In a full queue, who has fewer waiting takes the place of the newest one of whoever has most.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Of how many held slots the usual time is known, about.
_MEMORY: Final = 16


class Candidate:
    """What waits for a slot, in the line of a ``key``."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def granted(self) -> None:
        """Take the slot, which is counted as taken already. Must not raise; may give it back at once."""
        raise NotImplementedError

    def displaced(self) -> None:
        """Wait no more: there will be no slot. Must neither raise nor call the limiter."""
        raise NotImplementedError


class _Line:
    """What waits of one key, and how many slots it holds; ``turn``: when it got or gave back one last, or
    came, as a number."""

    __slots__ = ("active", "turn", "waiting")

    def __init__(self) -> None:
        self.active = 0
        self.turn = 0
        self.waiting: deque[Candidate] = deque()


class FairLimiter:
    """``limit`` slots, and at most ``max_pending`` that wait for one. While it is :attr:`shut`, nobody is let in.

    Take a slot by :meth:`acquire`; when that fails, :meth:`join`. Every slot goes back by one :meth:`release`."""

    __slots__ = ("_granting", "_lines", "_turns", "active", "held", "limit", "max_pending", "pending", "shut")

    def __init__(self, limit: int, max_pending: int) -> None:
        self.limit = limit
        self.max_pending = max_pending
        self.active = 0
        self.pending = 0
        self.shut = False
        #: Seconds for which a slot is held, usually; 0: not known.
        self.held = 0.0
        #: Of keys that hold a slot or wait for one.
        self._lines: dict[str, _Line] = {}
        self._turns = 0
        self._granting = False

    @property
    def keys(self) -> int:
        """How many keys hold slots or wait."""
        return len(self._lines)

    def acquire(self, key: str) -> bool:
        """Take a slot if one is free and nobody waits; return whether it was."""
        if self.shut or self.pending or self.active >= self.limit:
            return False
        line = self._line(key)
        line.active += 1
        line.turn = self._next()
        self.active += 1
        return True

    def join(self, candidate: Candidate) -> int:
        """Wait for a slot, after :meth:`acquire` failed. Return the place in the queue, from 1; 0: it is full."""
        key = candidate.key
        if self.pending >= self.max_pending and not self._displace(key):
            return 0
        line = self._line(key)
        if not line.waiting:
            line.turn = self._next()
        line.waiting.append(candidate)
        self.pending += 1
        return self._place(line)

    def leave(self, candidate: Candidate) -> None:
        """Drop one that has given up, if it still waits."""
        line = self._lines.get(candidate.key)
        if line is not None and candidate in line.waiting:
            line.waiting.remove(candidate)
            self.pending -= 1
            self._forget(candidate.key, line)

    def release(self, key: str, seconds: float = 0.0) -> None:
        """Give back a slot of that key, held for so many ``seconds`` (0: that says nothing); let the next one in."""
        line = self._lines[key]
        line.active -= 1
        line.turn = self._next()
        self.active -= 1
        if seconds > 0.0:
            self.held += (seconds - self.held) / _MEMORY if self.held else seconds
        self._forget(key, line)
        self._let_in()

    def resize(self, limit: int, max_pending: int) -> None:
        """Other bounds. What fits is let in at once, and nobody is sent away."""
        self.limit = limit
        self.max_pending = max_pending
        self._let_in()

    def open(self) -> None:
        """Let in again, after it was shut."""
        self.shut = False
        self._let_in()

    def estimate(self, place: int) -> float:
        """The seconds that the one at that place will wait, as slots are usually held; 0: not known."""
        return self.held * place / self.limit

    def _place(self, line: _Line) -> int:
        """Of the newest one of a line: those of its own before it, and as many of each other one."""
        here = len(line.waiting)
        return here + sum(min(len(it.waiting), here) for it in self._lines.values() if it is not line)

    def _line(self, key: str) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line

    def _forget(self, key: str, line: _Line) -> None:
        if not line.active and not line.waiting:
            del self._lines[key]

    def _next(self) -> int:
        self._turns += 1
        return self._turns

    def _displace(self, key: str) -> bool:
        """Make room by sending away the newest one of the longest line; False: that would not be fairer."""
        if not self.pending:
            return False
        longest = max(self._lines.values(), key=lambda it: len(it.waiting))
        own = self._lines.get(key)
        if len(longest.waiting) <= (len(own.waiting) if own is not None else 0) + 1:
            return False
        candidate = longest.waiting.pop()
        self.pending -= 1
        candidate.displaced()
        return True

    def _let_in(self) -> None:
        """Hand free slots to those who wait. What is granted may be given back at once, which must not recurse."""
        if self._granting:
            return
        self._granting = True
        try:
            while self.pending and self.active < self.limit and not self.shut:
                waiting = (it for it in self._lines.values() if it.waiting)
                line = min(waiting, key=lambda it: (it.active, it.turn))
                candidate = line.waiting.popleft()
                self.pending -= 1
                line.active += 1
                line.turn = self._next()
                self.active += 1
                candidate.granted()
        finally:
            self._granting = False
