"""Time for tests: it stands still until told otherwise."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """A clock to inject: call it for the time, :meth:`advance` it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Call:
    """What :meth:`Loop.call_at` returns."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop(Clock):
    """A clock with ``call_at``: :meth:`run_until` moves the time from call to call."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__(now)
        self.calls: list[Call] = []
        #: How many calls were run.
        self.woken = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Call:
        call = Call(when, callback)
        self.calls.append(call)
        return call

    def armed(self) -> list[Call]:
        """The calls that are still to come."""
        self.calls = [call for call in self.calls if not call.cancelled]
        return self.calls

    def run_until(self, when: float) -> None:
        while due := [call for call in self.armed() if call.when <= when]:
            call = min(due, key=lambda call: call.when)
            self.calls.remove(call)
            self.now = max(self.now, call.when)
            self.woken += 1
            call.callback()
        self.now = max(self.now, when)
