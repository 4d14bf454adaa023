"""A loop whose time passes only from one event to the next, and transports that nothing goes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Handle:
    """A call that is to come."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., Any] | None = call
        self.args = args

    def cancel(self) -> None:
        """Leave it out."""
        self.call = None


class Loop:
    """What mechanisms of the data plane need of an event loop."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._heap: list[tuple[float, int, Handle]] = []
        self._number = 0

    def time(self) -> float:
        """The time, seconds."""
        return self._now

    def call_at(self, when: float, call: Callable[..., Any], *args: Any) -> Handle:
        """Call that when it is so late."""
        handle = Handle(call, args)
        self._number += 1
        heappush(self._heap, (max(when, self._now), self._number, handle))
        return handle

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Handle:
        """Call that in so many seconds."""
        return self.call_at(self._now + delay, call, *args)

    def call_soon(self, call: Callable[..., Any], *args: Any) -> Handle:
        """Call that next, behind what is due already."""
        return self.call_at(self._now, call, *args)

    def run_until(self, until: float) -> None:
        """Let time pass until then, and all that is due."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, handle = heappop(heap)
            self._now = when
            if handle.call is not None:
                handle.call(*handle.args)
        self._now = max(self._now, until)


class Nowhere(asyncio.Transport):
    """Takes everything, and keeps nothing."""

    def write(self, data: object) -> None:
        """Drop it."""

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """There is nothing to close."""

    abort = pause_reading = resume_reading = close

    def get_write_buffer_size(self) -> int:
        return 0
