"""The bulkhead's mechanism: so many at once, so many waiting, first come, first served.

A slot that is given back goes straight to the waiter that has waited longest. So no waiter is overtaken, and a free
slot means that the queue is empty.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Protocol


class Waiter(Protocol):
    """What waits for a slot. Must be hashable by identity."""

    def granted(self) -> None:
        """Take the slot, which is counted as taken already. Must not raise; may call :meth:`Limiter.release`."""
        ...


class Limiter:
    """At most ``limit`` slots (0: any number), at most ``max_pending`` waiters (0: none).

    Take a slot by :meth:`try_acquire`; when that fails, :meth:`enqueue`. Every slot goes back by one
    :meth:`release`. How long to wait is the caller's decision; it gives up by :meth:`forget`.
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
        """Return how many wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Return True when all slots are taken."""
        return self.active >= self._slots

    def try_acquire(self) -> bool:
        """Take a slot if one is free and the queue is empty; return whether it was."""
        if self.active < self._slots and not self._waiting:
            self.active += 1
            return True
        return False

    def enqueue(self, waiter: Waiter) -> bool:
        """Wait for a slot, after :meth:`try_acquire` failed. Return False when the queue is full."""
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
        """Drop a waiter that has given up, if it still waits."""
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
