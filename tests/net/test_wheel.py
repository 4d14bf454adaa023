from __future__ import annotations

import gc
import logging
import weakref
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.net.wheel import Timer, TimerWheel
from support.clock import Loop
from support.examples import examples

TICK = 0.02
#: Seconds of rounding: times are around 1000.
ROUNDING = 1e-9


class Log:
    """Notes when it was called."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(self.loop.now)


def setup() -> tuple[Loop, TimerWheel, Log]:
    loop = Loop()
    return loop, TimerWheel(loop.call_at, loop, TICK), Log(loop)


def test_fires_once_not_early_and_at_most_a_tick_late() -> None:
    loop, wheel, fired = setup()
    timer = wheel.timer(fired)
    timer.set(1001.234)
    assert timer.deadline == 1001.234
    loop.run_until(1001.233)
    assert fired.times == []
    loop.run_until(2000)
    assert len(fired.times) == 1
    assert 1001.234 <= fired.times[0] <= 1001.234 + TICK + ROUNDING
    assert timer.deadline == inf
    assert not loop.armed()


def test_nothing_is_armed_before_something_is_set() -> None:
    loop, wheel, fired = setup()
    wheel.timer(fired).cancel()
    assert not loop.armed()


def test_moving_a_deadline_further_away_costs_no_call() -> None:
    loop, wheel, fired = setup()
    timer = wheel.timer(fired)
    timer.set(1001)
    calls = loop.armed().copy()
    for i in range(1000):
        timer.set(1002 + i / 1000)
    assert loop.armed() == calls
    loop.run_until(1002.99)
    assert fired.times == []
    loop.run_until(1003.1)
    assert len(fired.times) == 1


def test_an_earlier_deadline_replaces_the_later_one() -> None:
    loop, wheel, fired = setup()
    timer = wheel.timer(fired)
    timer.set(1300)
    timer.set(1001)
    assert len(loop.armed()) == 1
    loop.run_until(1400)
    assert len(fired.times) == 1
    assert fired.times[0] <= 1001 + TICK + ROUNDING


def test_the_callback_may_set_its_timer_anew() -> None:
    loop, wheel, _ = setup()
    times: list[float] = []

    def again() -> None:
        times.append(loop.now)
        if len(times) < 3:
            timer.set(loop.now + 1)

    timer = wheel.timer(again)
    timer.set(1001)
    loop.run_until(1010)
    assert len(times) == 3
    assert times[-1] == pytest.approx(1003, abs=3 * TICK)


@pytest.mark.parametrize("now", [0.3, 0.06, 1000.0, 1234567.89, 0.0])
def test_a_deadline_gone_by_fires_at_the_next_tick_and_never_in_the_same_run(now: float) -> None:
    loop = Loop(now)
    wheel = TimerWheel(loop.call_at, loop, 0.1)
    runs: list[int] = []

    def again() -> None:
        runs.append(loop.woken)
        if len(runs) < 5:
            timer.set(0.0)

    timer = wheel.timer(again)
    timer.set(now - 1)
    loop.run_until(now + 10)
    assert len(runs) == 5
    assert len(set(runs)) == 5


def test_a_cancelled_timer_does_not_fire_and_its_entry_goes() -> None:
    loop, wheel, fired = setup()
    timer = wheel.timer(fired)
    timer.set(1005)
    timer.cancel()
    assert timer.deadline == inf
    loop.run_until(1010)
    assert fired.times == []
    assert not loop.armed()
    timer.set(1011)
    loop.run_until(1012)
    assert len(fired.times) == 1


def test_a_closed_timer_holds_nothing_and_is_held_by_nothing() -> None:
    loop, wheel, fired = setup()
    timer = wheel.timer(fired)
    timer.set(1300)
    callback = weakref.ref(fired)
    timer.close()
    timer.close()
    timer.set(1001)
    del fired
    gc.collect()
    assert callback() is None
    assert not any(wheel._buckets.values())
    loop.run_until(1400)
    assert not loop.armed()


def test_closing_others_of_the_same_bucket_while_it_fires() -> None:
    loop, wheel, _ = setup()
    fired: list[Timer] = []

    def make() -> Timer:
        def callback() -> None:
            fired.append(timer)
            for other in timers:
                other.close()

        timer = wheel.timer(callback)
        return timer

    timers = [make() for _ in range(10)]
    for timer in timers:
        timer.set(1001)
    loop.run_until(1002)
    assert len(fired) == 1


def test_what_a_callback_raises_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    loop, wheel, fired = setup()

    def fail() -> None:
        raise ZeroDivisionError

    for callback in (fail, fired, fail, fired):
        wheel.timer(callback).set(1001)
    wheel.timer(fired).set(1003)
    with caplog.at_level(logging.ERROR):
        loop.run_until(1004)
    assert len(fired.times) == 3
    assert len([r for r in caplog.records if r.exc_info]) == 2


def test_a_loop_that_wakes_too_early_is_asked_again_a_little_later() -> None:
    loop, wheel, fired = setup()
    wheel.timer(fired).set(1001)
    [call] = loop.armed()
    loop.calls.clear()
    loop.now = call.when - 0.0004
    call.callback()
    assert fired.times == []
    [call] = loop.armed()
    assert call.when >= loop.now + 0.001
    loop.run_until(1002)
    assert len(fired.times) == 1


def test_many_timers_need_few_buckets_and_few_wakeups() -> None:
    loop, wheel, fired = setup()
    timers = [wheel.timer(fired) for _ in range(3000)]
    for i, timer in enumerate(timers):
        timer.set(1300 + i / 100)
    assert len(wheel._buckets) < 150
    for timer in timers:
        timer.close()
    loop.run_until(1400)
    assert loop.woken == 1


def test_far_and_endless_deadlines() -> None:
    loop, wheel, fired = setup()
    wheel.timer(fired).set(inf)
    assert not loop.armed()
    timer = wheel.timer(fired)
    timer.set(1e12)
    timer.set(1001)
    loop.run_until(1002)
    assert len(fired.times) == 1


class Wheel(RuleBasedStateMachine):
    """Against the plain truth: a set timer fires once, in [deadline, deadline + tick]."""

    @initialize(start=st.floats(0, 1e5))
    def begin(self, start: float) -> None:
        self.loop = Loop(start)
        self.wheel = TimerWheel(self.loop.call_at, self.loop, TICK)
        #: Per timer, the earliest time that it may fire at, and the time that it was set at; None: it must not.
        self.wanted: list[tuple[float, float] | None] = [None] * 4
        self.timers = [self.wheel.timer(lambda i=i: self.fired(i)) for i in range(4)]  # type: ignore[misc]

    def fired(self, i: int) -> None:
        wanted = self.wanted[i]
        assert wanted is not None, "fired without being set, or twice"
        deadline, since = wanted
        assert self.loop.now >= deadline
        assert self.loop.now <= max(deadline, since) + TICK + ROUNDING * 1000
        assert self.timers[i].deadline == inf
        self.wanted[i] = None
        if i == 0:  # one that begins again by itself, for a while
            self.set(0, 0.05 if self.loop.woken % 5 else 7.0)

    @rule(i=st.integers(0, 3), delta=st.one_of(st.floats(-1, 1), st.floats(0, 400)))
    def set(self, i: int, delta: float) -> None:
        deadline = self.loop.now + delta
        self.wanted[i] = (deadline, self.loop.now)
        self.timers[i].set(deadline)

    @rule(i=st.integers(0, 3))
    def cancel(self, i: int) -> None:
        self.wanted[i] = None
        self.timers[i].cancel()

    @rule(i=st.integers(1, 3))
    def replace(self, i: int) -> None:
        self.wanted[i] = None
        self.timers[i].close()
        self.timers[i] = self.wheel.timer(lambda: self.fired(i))

    @rule(delta=st.one_of(st.floats(0, 0.1), st.floats(0, 60)))
    def wait(self, delta: float) -> None:
        self.loop.run_until(self.loop.now + delta)

    @invariant()
    def nobody_is_overdue_and_one_call_at_most(self) -> None:
        if not hasattr(self, "loop"):
            return
        for wanted in self.wanted:
            assert wanted is None or self.loop.now <= max(wanted) + TICK + ROUNDING * 1000
        assert len(self.loop.armed()) <= 1
        if any(self.wanted):
            assert len(self.loop.armed()) == 1


Wheel.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
TestWheel = Wheel.TestCase
