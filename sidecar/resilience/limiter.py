"""The bulkhead's mechanism: so many at once, so many waiting, and nobody waits for ever.

A slot that is given back goes straight to whoever has waited longest, so nobody is overtaken and a slot is never
seen free while somebody waits for it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class Waiter(Protocol):
    """Somebody who waits for a slot. Must be hashable by identity."""

    def granted(self) -> None:
        """It is your turn; the slot is already counted as yours. Must not raise; may call :meth:`Limiter.release`."""
        ...


class Limiter:
    """At most ``limit`` slots (0: any number), at most ``max_pending`` waiters (0: nobody waits), each for at most
    ``pending_timeout`` seconds of ``clock``.

    Take a slot by :meth:`try_acquire`; when that fails, :meth:`enqueue`. Every slot, however it was come by, goes back
    by one :meth:`release`. The limiter has no timer: ask :meth:`next_expiry` and call :meth:`expire` then.
    """

    __slots__ = ("_clock", "_granting", "_slots", "_waiting", "active", "limit", "max_pending", "pending_timeout")

    def __init__(self, limit: int, max_pending: int, pending_timeout: float, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.max_pending = max_pending
        self.pending_timeout = pending_timeout
        self._clock = clock
        self._slots = limit or sys.maxsize
        #: Slots taken.
        self.active = 0
        #: Waiter → since when it waits; the oldest first. Not its deadline: the timeout may be changed meanwhile.
        self._waiting: OrderedDict[Waiter, float] = OrderedDict()
        self._granting = False

    @property
    def pending(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self.active < self._slots and not self._waiting:
            self.active += 1
            return True
        return False

    def enqueue(self, waiter: Waiter) -> bool:
        """Wait for a slot, after :meth:`try_acquire` failed. False: the queue is full."""
        if len(self._waiting) >= self.max_pending:
            return False
        self._waiting[waiter] = self._clock()
        return True

    def release(self) -> None:
        """Give a slot back."""
        self.active -= 1
        if self._waiting:
            self._grant()

    def forget(self, waiter: Waiter) -> None:
        """The waiter has given up. Nothing happens when it does not wait (any more)."""
        self._waiting.pop(waiter, None)

    def expire(self, now: float) -> list[Waiter]:
        """Those who have waited too long; they no longer wait and will not be granted a slot."""
        waiting = self._waiting
        expired: list[Waiter] = []
        while waiting:
            waiter = next(iter(waiting))
            if waiting[waiter] + self.pending_timeout > now:
                break
            del waiting[waiter]
            expired.append(waiter)
        return expired

    def next_expiry(self) -> float | None:
        """When the next waiter will have waited too long; None when nobody waits."""
        for since in self._waiting.values():
            return since + self.pending_timeout
        return None

    def resize(self, limit: int) -> None:
        """Change the limit. A higher one lets waiters in at once; with a lower one slots go as they are given back."""
        self.limit = limit
        self._slots = limit or sys.maxsize
        self._grant()

    def _grant(self) -> None:
        """Hand free slots to waiters. A loop and a flag, because a waiter that ends at once releases its slot in
        ``granted()``, and a long queue of such waiters must not recurse."""
        if self._granting:
            return
        self._granting = True
        try:
            while self._waiting and self.active < self._slots:
                waiter = self._waiting.popitem(last=False)[0]
                self.active += 1
                waiter.granted()
        finally:
            self._granting = False
