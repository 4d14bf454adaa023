"""What has left a batch of writes, and when."""

from __future__ import annotations

from collections.abc import Callable

from support.clock import Call, Loop


class Writes:
    """Takes what a batch writes, in a time of its own."""

    def __init__(self) -> None:
        self.loop = Loop(0.0)
        #: Time and bytes of each.
        self.writes: list[tuple[float, bytes]] = []

    def write(self, data: bytes) -> None:
        assert data
        self.writes.append((self.loop.now, data))

    def call_later(self, delay: float, call: Callable[[], None]) -> Call:
        return self.loop.call_at(self.loop.now + delay, call)

    def left(self) -> bytes:
        """All of it."""
        return b"".join(data for _, data in self.writes)

    def in_time(self, given: list[tuple[float, int]], longest: float) -> None:
        """Everything has left within so many seconds after it was given; ``given``: when, and how many bytes there were
        by then."""
        total = 0
        times = []
        for when, data in self.writes:
            total += len(data)
            times.append((when, total))
        for when, upto in given:
            left = next(time for time, total in times if total >= upto)
            assert when <= left <= when + longest + 1e-9
