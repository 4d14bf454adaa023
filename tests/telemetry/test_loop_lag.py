"""The loop's lag is what a timer was late by."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.telemetry.loop_lag import PERIOD, LoopLag


class Handle:
    """A timer that can be given up."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop that fires when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.handles: list[Handle] = []

    def clock(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        self.handles.append(Handle(when, call))
        return self.handles[-1]

    def fire(self, late: float) -> None:
        handle = self.handles[-1]
        self.now = handle.when + late
        handle.call()


def test_what_a_timer_is_late_by_is_the_lag() -> None:
    loop = Loop()
    lag = LoopLag(loop.call_at, loop.clock)
    lag.start()
    for late in (0.0, -0.0005, 0.3, 7.0):
        loop.fire(late)
    assert [handle.when for handle in loop.handles[:2]] == [100.0 + PERIOD, 100.0 + 2 * PERIOD]
    counts = dict(zip((*lag.lag.bounds, None), lag.lag.counts, strict=True))
    assert {bound: n for bound, n in counts.items() if n} == {0.001: 2, 0.5: 1, None: 1}
    assert 7.29 < lag.lag.total < 7.31
    (family,) = lag.families()
    assert family.name == "sidecar_event_loop_lag_seconds"


def test_it_can_be_stopped() -> None:
    loop = Loop()
    lag = LoopLag(loop.call_at, loop.clock)
    lag.stop()
    lag.start()
    lag.stop()
    assert [handle.cancelled for handle in loop.handles] == [True]
