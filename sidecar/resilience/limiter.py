"""The bulkhead's mechanism: so many at once, so many waiting, first come, first served.

A slot that is given back goes straight to whoever has waited longest, so nobody is overtaken and a slot is never
seen free while somebody waits for it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Protocol


class Waiter(Protocol):
    """Somebody who waits for a slot. Must be hashable by identity."""

    def granted(self) -> None:
        """It is your turn; the slot is already counted as yours. Must not raise; may call :meth:`Limiter.release`."""
        ...


class Limiter:
    """At most ``limit`` slots (0: any number), at most ``max_pending`` waiters (0: nobody waits).

    Take a slot by :meth:`try_acquire`; when that fails, :meth:`enqueue`. Every slot, however it was come by, goes back
    by one :meth:`release`. How long to wait is for the waiter to decide, who then says :meth:`forget`.
    """

    __slots__ = ("_granting", "_slots", "_waiting", "active", "limit", "max_pending")

    def __init__(self, limit: int, max_pending: int) -> None:
        self.limit = limit
        self.max_pending = max_pending
        self._slots = limit or sys.maxsize
        #: Slots taken.
        self.active = 0
        #: A set in the order of arrival.
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._granting = False

    @property
    def pending(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No slot is free."""
        return self.active >= self._slots

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
        self._waiting[waiter] = None
        return True

    def release(self) -> None:
        """Give a slot back."""
        self.active -= 1
        if self._waiting:
            self._grant()

    def forget(self, waiter: Waiter) -> None:
        """The waiter has given up. Nothing happens when it does not wait (any more)."""
        self._waiting.pop(waiter, None)

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
