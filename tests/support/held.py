"""An event loop whose time a test can hold: sockets and threads go on, and no timer comes before its time is given."""

from __future__ import annotations

import asyncio


class HeldLoop(asyncio.SelectorEventLoop):
    """Time goes on by itself until :meth:`hold`; from then on only by :meth:`advance`, until :meth:`release`. So a
    limit of seconds says what has to happen before, and nothing about the machine."""

    def __init__(self) -> None:
        self._held: float | None = None
        #: How far its time is behind that of the system, seconds.
        self._behind = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() - self._behind if self._held is None else self._held

    def hold(self) -> None:
        self._held = self.time()

    def advance(self, seconds: float) -> None:
        """What is due by then happens as soon as the loop runs."""
        assert self._held is not None
        self._held += seconds

    def release(self) -> None:
        if self._held is not None:
            self._behind = super().time() - self._held
            self._held = None
