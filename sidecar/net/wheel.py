"""Coarse, lazy timers: one clock for all deadlines, made for one timer per *connection*.

A ``loop.call_later`` with its cancel costs 5 µs, and every request would need several. Here a deadline is an
attribute: moving it further away, which is what nearly every request does, touches nothing else. When the bucket
that a timer sits in comes up, the timer is fired if its deadline has passed and filed again if it was moved
meanwhile. Nothing runs while nothing is filed, and there is no periodic tick.

The price is precision: a timer fires up to one tick late (never early).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf
from typing import Final, Protocol

log = logging.getLogger("sidecar.timers")

#: How far ahead the loop is asked to wake us when it woke us before the time (uvloop rounds to milliseconds).
_SHORTEST_WAIT: Final = 0.001


class Handle(Protocol):
    """What ``call_at`` returns, as :class:`asyncio.TimerHandle`."""

    def cancel(self) -> object: ...


class Timer:
    """One deadline that can be moved at no cost. Made by :meth:`TimerWheel.timer`.

    ``deadline`` is in the wheel's clock, ``inf`` when there is none. Read it; change it by :meth:`set`.
    """

    __slots__ = ("_bucket", "_due", "_wheel", "callback", "deadline")

    def __init__(self, wheel: TimerWheel, callback: Callable[[], None]) -> None:
        self.deadline = inf
        self.callback: Callable[[], None] | None = callback
        self._wheel = wheel
        #: Where the bucket's tick begins: deadlines before it need an earlier bucket. inf: not filed, -inf: closed.
        self._due = inf
        self._bucket: dict[Timer, None] | None = None

    def set(self, deadline: float) -> None:
        """Fire once at ``deadline`` (or up to a tick later) in place of whatever was set before. A deadline in the
        past fires at the next tick. Nothing happens on a closed timer."""
        self.deadline = deadline
        if deadline < self._due:
            self._wheel._file(self)

    def cancel(self) -> None:
        """Do not fire. The timer can be set again."""
        self.deadline = inf

    def close(self) -> None:
        """Never fire again, and let go of the callback and of the wheel's entry at once."""
        self.deadline = inf
        self.callback = None
        self._due = -inf
        if self._bucket is not None:
            del self._bucket[self]
            self._bucket = None


class TimerWheel:
    """Keeps :class:`Timer` objects in buckets and holds at most one handle of the loop, for the next bucket.

    ``call_at(when, callback)`` is the loop's, ``clock`` must be the same time, ``tick`` is the precision in seconds.

    A deadline that is far away is filed in a coarser bucket before it, and moves to finer ones as it comes nearer.
    That bounds the number of buckets (eight for each doubling of the distance), however many timers there are.
    """

    __slots__ = ("_buckets", "_call_at", "_clock", "_handle", "_heap", "_next", "tick")

    def __init__(
        self,
        call_at: Callable[[float, Callable[[], None]], Handle],
        clock: Callable[[], float],
        tick: float = 0.02,
    ) -> None:
        self.tick = tick
        self._call_at = call_at
        self._clock = clock
        #: Tick number → the timers to look at then. Dictionaries as ordered sets, so that closing a timer is O(1).
        self._buckets: dict[int, dict[Timer, None]] = {}
        #: The same numbers, the next one first.
        self._heap: list[int] = []
        self._handle: Handle | None = None
        #: The tick that the handle is for.
        self._next = 0

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A new timer, not set. ``callback`` may set its own timer anew; what it raises is logged."""
        return Timer(self, callback)

    def _file(self, timer: Timer) -> None:
        """Put a timer into the bucket of its deadline, out of the one it was in."""
        tick = self.tick
        now = self._clock()
        current = int(now / tick)
        number = max(ceil(timer.deadline / tick), current + 1)
        # Rounding must not file it where it would come up at once, or a callback that sets its own timer to a time
        # gone by would keep the loop below from ending.
        if number * tick <= now:
            number += 1
        ahead = number - current
        if ahead > 16:
            number -= number % (1 << (ahead.bit_length() - 4))
        if timer._bucket is not None:
            del timer._bucket[timer]
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heappush(self._heap, number)
        bucket[timer] = None
        timer._bucket = bucket
        timer._due = (number - 1) * tick
        if self._handle is None:
            self._arm(number * tick)
        elif number < self._next:
            self._handle.cancel()
            self._arm(number * tick)

    def _arm(self, when: float) -> None:
        self._next = self._heap[0]
        self._handle = self._call_at(when, self._fire)

    def _fire(self) -> None:
        """Look at every timer whose bucket has come up."""
        # While callbacks run, filing must not touch the handle: it is set once, below, for whatever is then first.
        self._next = 0
        now = self._clock()
        heap = self._heap
        buckets = self._buckets
        # Buckets that were emptied by closing timers go too, even when their time has not come.
        while heap and (heap[0] * self.tick <= now or not buckets[heap[0]]):
            bucket = buckets.pop(heappop(heap))
            while bucket:
                timer = bucket.popitem()[0]
                timer._bucket = None
                timer._due = inf
                if timer.deadline <= now:
                    timer.deadline = inf
                    self._run(timer)
                elif timer.deadline < inf:
                    self._file(timer)
        self._handle = None
        if heap:
            self._arm(max(heap[0] * self.tick, now + _SHORTEST_WAIT))

    def _run(self, timer: Timer) -> None:
        try:
            if timer.callback is not None:
                timer.callback()
        except Exception:
            log.exception("a timer's callback failed")
