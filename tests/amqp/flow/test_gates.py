from __future__ import annotations

import random
from collections import deque
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.gates import IN_FLIGHT, DepthGate, Gate, RateGate, SwitchGate, Waiter
from sidecar.amqp.flow.stats import QueueDepth
from support.examples import examples


class Told:
    """A callback that counts."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def depth_gate(high: int = 100, low: int = 80, over: str = "hold") -> DepthGate:
    gate = DepthGate(QueueDepth("/", "tasks", high, low), over)
    gate.on_change = Told()
    gate.on_urgent = Told()
    return gate


def told(callback: object) -> int:
    assert isinstance(callback, Told)
    return callback.times


def closed(gate: DepthGate | SwitchGate) -> bool:
    assert isinstance(gate, SwitchGate) or gate.queue.full == gate.closed
    return gate.closed


def urgent(gate: DepthGate) -> bool:
    return gate.urgent


def waiter(gate: Gate, rank: int, arrival: int, messages: int = 1, size: int = 0) -> Waiter:
    one = Waiter(gate)
    one.rank = rank
    one.arrival = arrival
    one.messages = messages
    one.bytes = size
    gate.join(one)
    return one


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_line_is_by_rank_then_arrival() -> None:
    gate = Gate("any")
    fresh = Waiter(gate)
    assert fresh.gate is gate
    assert (fresh.rank, fresh.arrival, fresh.messages, fresh.bytes, fresh.ticket) == (0, 0, 0, 0, 0)
    third = waiter(gate, 0, 1, 5, 500)
    second = waiter(gate, -3, 9, 1, 20)
    first = waiter(gate, -3, 2, 1, 3)
    assert (gate.waiting, gate.messages, gate.bytes) == (3, 7, 523)
    order = []
    while (one := gate.first()) is not None:
        order.append(one)
        gate.leave(one)
        assert one.ticket == 0
        assert gate.bytes == 523 - sum(it.bytes for it in order)
    assert order == [first, second, third]
    assert (gate.waiting, gate.messages, gate.bytes) == (0, 0, 0)


def test_one_may_leave_from_the_middle_and_come_back_elsewhere() -> None:
    gate = Gate("any")
    other = Gate("other")
    first = waiter(gate, 0, 1)
    second = waiter(gate, 0, 2)
    gate.leave(first)
    other.join(first)
    assert gate.first() is second
    assert other.first() is first
    other.leave(first)
    first.rank = 1
    gate.join(first)
    assert gate.first() is second
    gate.leave(second)
    assert gate.first() is first
    assert other.first() is None


def test_the_place_that_one_had_before_is_not_kept() -> None:
    gate = Gate("any")
    first = waiter(gate, 0, 1)
    second = waiter(gate, 0, 2)
    gate.leave(first)
    first.rank = 1
    gate.join(first)
    assert gate.first() is second


def test_those_who_left_leave_nothing_behind() -> None:
    gate = Gate("any")
    stays = waiter(gate, -1, 0)
    for arrival in range(1, 10_000):
        gate.leave(waiter(gate, 0, arrival))
    assert len(gate._line) < 100
    assert gate.first() is stays


def test_whoever_comes_later_stands_behind() -> None:
    for gate in (
        Gate("any"),
        SwitchGate("alarm of the broker"),
        depth_gate(),
        RateGate("rate", 1000, 100, "hold", 0.0),
    ):
        assert gate.open(0.0)
        one = waiter(gate, 0, 1)
        assert not gate.open(0.0)
        assert gate.admit(0.0)
        gate.leave(one)
        assert gate.open(0.0)


# -- rate --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_impossible_rates(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        RateGate("rate", rate, burst, "hold", 0.0)


def test_burst_then_rate() -> None:
    gate = RateGate("rate", 10, 3, "nack", 0.0)
    assert (gate.name, gate.over) == ("rate", "nack")
    assert [gate.open(0.0) for _ in range(4)] == [True, True, True, False]
    assert gate.wake_at(0.0) == pytest.approx(0.1)
    assert not gate.open(0.05)
    assert gate.open(0.1)
    assert not gate.open(0.1)


def test_tokens_are_taken_when_they_were_due() -> None:
    gate = RateGate("rate", 1000, 1, "hold", 0.0)
    assert gate.open(0.0)
    assert not gate.open(0.0)
    one = waiter(gate, 0, 1)
    assert not gate.admit(0.0005)
    assert [gate.admit(0.0205) for _ in range(21)] == [True] * 20 + [False]
    assert gate.wake_at(0.0205) == pytest.approx(0.021)
    gate.leave(one)
    assert not gate.open(0.0205), "and none is given twice"
    assert gate.open(0.021)


def test_no_storm_after_a_standstill() -> None:
    gate = RateGate("rate", 1000, 1, "hold", 0.0)
    assert gate.open(0.0)
    assert not gate.open(0.0)
    waiter(gate, 0, 1)
    admitted = 0
    while gate.admit(60.0):
        admitted += 1
    assert 400 <= admitted <= 501


@settings(max_examples=examples(60), deadline=None)
@given(
    rate=st.floats(1, 20_000),
    burst=st.integers(1, 100),
    lateness=st.floats(0, 0.02),
    seed=st.randoms(use_true_random=False),
)
def test_exact_however_late_the_timer(rate: float, burst: int, lateness: float, seed: random.Random) -> None:
    gate = RateGate("rate", rate, burst, "hold", 1000.0)
    now = 1000.0
    count = 0
    while gate.open(now):
        count += 1
    assert count == burst
    waiter(gate, 0, 1)
    end = 1000.0 + min(10.0, 2000 / rate)
    while now < end:
        now = max(now, gate.wake_at(now)) + seed.random() * lateness
        while gate.admit(now):
            count += 1
    assert abs(count - burst - (now - 1000.0) * rate) <= 1.01


def test_change() -> None:
    gate = RateGate("rate", 1, 1, "hold", 0.0)
    gate.on_change = told_of = Told()
    assert gate.open(0.0)
    assert not gate.open(0.0)
    waiter(gate, 0, 1)
    gate.change(100, 2, "nack", 0.1)
    assert told_of.times == 1
    assert gate.over == "nack"
    assert gate.wake_at(0.1) == 0.1
    assert [gate.admit(0.1) for _ in range(3)] == [True, True, False]
    assert gate.wake_at(0.1) == pytest.approx(0.11)


def test_retired_gates_are_open() -> None:
    rate = RateGate("rate", 1, 1, "hold", 0.0)
    depth = depth_gate()
    depth.sampled(1000, 0, 0.0, 0.0)
    assert rate.open(0.0)
    assert not rate.open(0.0)
    for gate in (rate, depth):
        gate.on_change = changes = Told()
        one = waiter(gate, 0, 1)
        gate.retire(1.0)
        assert changes.times >= 1
        assert gate.wake_at(1.0) == 1.0
        assert all(gate.admit(1.0) for _ in range(10))
        gate.leave(one)
        assert all(gate.open(1.0) for _ in range(10))
    assert not rate.waiting
    assert rate.wake_at(0.5) == 0.5, "not when the next token was due"
    depth.sampled(1000, 0, 2.0, 2.0)
    assert depth.open(2.0)
    assert depth.queue.depth == -1
    depth.unknown("late news", 2.0)
    assert depth.queue.problem == ""


# -- depth -------------------------------------------------------------------------------------------------------------


def test_unknown_depth_is_open() -> None:
    gate = depth_gate()
    assert gate.name == "queue tasks of /"
    for _ in range(1000):
        assert gate.open(0.0)
        gate.passed(0.0)
    assert gate.estimate == -1
    assert not urgent(gate)


def test_closed_by_a_sample_until_low() -> None:
    gate = depth_gate(100, 80)
    gate.sampled(100, 2, 1.0, 1.0)
    assert closed(gate)
    assert urgent(gate)
    assert (gate.queue.depth, gate.queue.consumers) == (100, 2)
    assert gate.wake_at(1.0) == inf
    assert not gate.open(1.0)
    gate.sampled(81, 2, 2.0, 2.0)
    assert closed(gate)
    assert told(gate.on_change) == 0
    gate.sampled(80, 2, 3.0, 3.0)
    assert not closed(gate)
    assert not urgent(gate)
    assert told(gate.on_change) == 1
    assert gate.open(3.0)
    assert gate.wake_at(3.0) == 3.0
    assert told(gate.on_urgent) == 1


def test_closed_by_an_estimate_until_the_next_sample() -> None:
    gate = depth_gate(100, 50)
    gate.sampled(80, 0, 1.0, 1.0)
    count = 0
    while gate.open(1.5):
        gate.passed(1.5)
        count += 1
        assert urgent(gate) == (count >= 10), "from nine tenths on"
    assert count == 20
    assert gate.estimate == 100
    assert told(gate.on_urgent) == 1
    gate.sampled(99, 0, 2.0, 2.0)
    assert not closed(gate), "it was only an estimate: no need to wait for low"
    assert told(gate.on_change) == 1
    gate.passed(2.0)
    assert closed(gate)


def test_what_is_on_its_way_counts() -> None:
    gate = depth_gate(100, 50)
    gate.sampled(0, 0, 1.0, 1.0)
    for _ in range(60):
        gate.passed(2.0)
    gate.sampled(0, 0, 2.1, 2.1)
    assert gate.estimate == 60, "asked too soon to have seen them"
    gate.sampled(60, 0, 2.2, 2.2)
    assert closed(gate), "they may be counted twice, for a moment"
    gate.sampled(60, 0, 2.3, 2.3)
    assert not closed(gate)
    assert gate.estimate == 60


def test_estimates_do_not_open_what_a_sample_closed() -> None:
    gate = depth_gate(100, 50)
    gate.sampled(90, 0, 1.0, 1.0)
    for _ in range(10):
        gate.passed(1.0)
    assert closed(gate)
    gate.sampled(100, 0, 2.0, 2.0)
    gate.sampled(60, 0, 3.0, 3.0)
    assert closed(gate)
    gate.sampled(50, 0, 4.0, 4.0)
    assert not closed(gate)


def test_lost_sight_of() -> None:
    gate = depth_gate()
    gate.sampled(200, 3, 1.0, 1.0)
    gate.unknown("no such queue", 2.0)
    assert gate.open(2.0)
    assert told(gate.on_change) == 1
    queue = gate.queue
    assert (queue.depth, queue.consumers, queue.full, queue.problem) == (-1, -1, False, "no such queue")
    assert not urgent(gate)
    for _ in range(1000):
        gate.passed(2.5)
    assert gate.open(2.5), "without a sample, nothing is too many"
    gate.sampled(99, 3, 3.0, 3.0)
    assert queue.problem == ""
    assert not closed(gate), "what was before is forgotten"


def test_an_older_answer_is_none() -> None:
    gate = depth_gate()
    gate.sampled(10, 0, 2.0, 2.0)
    gate.sampled(1000, 0, 1.9, 2.1)
    assert gate.queue.depth == 10


def test_other_bounds() -> None:
    gate = depth_gate(100, 80)
    gate.reconsider(0.0)
    assert not closed(gate)
    gate.sampled(90, 0, 1.0, 1.0)
    gate.queue.high = 90
    gate.reconsider(1.0)
    assert closed(gate)
    gate.queue.high, gate.queue.low = 200, 190
    gate.reconsider(1.0)
    assert not closed(gate)
    assert told(gate.on_change) == 1
    for _ in range(110):
        assert gate.open(2.0)
        gate.passed(2.0)
    assert closed(gate)


def test_other_bounds_of_an_empty_queue() -> None:
    gate = depth_gate(100, 80)
    gate.sampled(0, 0, 1.0, 1.0)
    for _ in range(60):
        gate.passed(1.0)
    gate.queue.high, gate.queue.low = 50, 40
    gate.reconsider(1.0)
    assert closed(gate)


def test_a_broker_that_is_slow_to_take_what_was_passed_on() -> None:
    gate = depth_gate(100, 60)
    gate.sampled(0, 0, 1.0, 1.0)
    while gate.open(1.0):
        gate.passed(1.0)
    # Half a second later some of it is still on its way: the queue grows though nothing was passed on.
    for now, depth in ((1.1, 20), (1.5, 50), (1.6, 80)):
        gate.sampled(depth, 0, now, now)
        assert closed(gate)
    gate.sampled(80, 0, 1.7, 1.7)
    assert not closed(gate)


@pytest.mark.parametrize("high", [1, 2, 3, 9, 10, 11])
def test_small_bounds(high: int) -> None:
    gate = depth_gate(high, 0)
    gate.sampled(0, 0, 1.0, 1.0)
    count = 0
    while gate.open(1.0):
        gate.passed(1.0)
        count += 1
    assert count == high
    assert told(gate.on_urgent) == 1


@settings(max_examples=examples(200), deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 0.3),
            st.one_of(st.integers(1, 30), st.tuples(st.integers(0, 120), st.floats(0, 0.4))),
        ),
        max_size=60,
    )
)
def test_estimate(steps: list[tuple[float, int | tuple[int, float]]]) -> None:
    """All that a sample may have missed is counted, and nothing that is older than that by more than a span."""
    gate = depth_gate(100, 60)
    now = 1000.0
    passes: list[float] = []
    seen = asked = until = -inf
    counted = 0
    for pause, what in steps:
        now += pause
        if isinstance(what, int):
            for _ in range(what):
                if gate.open(now):
                    gate.passed(now)
                    passes.append(now)
                    if now >= until:
                        until = now + 0.01
        elif now - what[1] >= asked:
            depth, ago = what
            # Closed, and growing by what was passed on long ago: that is still on its way.
            arriving = gate.closed and depth > gate.queue.depth >= 0 and len(passes) == counted and now - until < 2.0
            asked, counted = now - ago, len(passes)
            gate.sampled(depth, 0, now - ago, now)
            if not arriving:
                seen = max(seen, now - ago - IN_FLIGHT)
        if gate.queue.depth >= 0:
            least = sum(1 for at in passes if at >= seen)
            most = sum(1 for at in passes if at > seen - 0.0101)
            assert least <= gate.estimate - gate.queue.depth <= most
            if not gate.closed:
                assert gate.estimate < 100
            assert gate.urgent == (gate.closed or gate.estimate >= 90)
            assert gate.queue.full == gate.closed


def test_unasked_for_long() -> None:
    gate = depth_gate(10**9, 1)
    gate.sampled(0, 0, 0.0, 0.0)
    for step in range(100_000):
        gate.passed(step / 100)
    assert len(gate._spans) <= 512
    assert gate.estimate == 100_000
    gate.sampled(0, 0, 500.0, 1000.0)
    assert gate.estimate >= 50_000, "rather too many than too few"
    gate.sampled(0, 0, 999.0, 1000.0)
    assert 125 <= gate.estimate <= 127
    gate.passed(1000.0)
    gate.sampled(0, 0, 2000.0, 2000.0)
    assert gate.estimate == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_does_not_drown_the_queue(seed: int) -> None:
    """Publishers that never stop, a consumer at 2000/s that pauses at times, messages and answers that take their time:
    the queue stays below ``high`` and never runs dry while there is something to do."""
    chance = random.Random(seed)
    gate = depth_gate(10_000, 8_000)
    on_their_way: deque[tuple[float, int]] = deque()
    queue = 0
    deepest = 0
    dry = 0
    asked_at, answer_at, ask_next = -1.0, -1.0, 0.0
    seen = 0
    for tick in range(12_000):
        now = tick / 1000
        count = 0
        while count < chance.randint(0, 60) and gate.open(now):
            gate.passed(now)
            count += 1
        on_their_way.append((now + chance.uniform(0.0005, 0.15), count))
        while on_their_way and on_their_way[0][0] <= now:
            queue += on_their_way.popleft()[1]
        if now > 1.0 and not 4.0 < now < 6.0:
            queue = max(0, queue - 2)
        deepest = max(deepest, queue)
        dry += now > 1.5 and queue == 0
        if asked_at < 0 and now >= ask_next:
            asked_at, answer_at, seen = now, now + chance.uniform(0.0005, 0.02), -1
        if asked_at >= 0 and seen < 0:
            seen = queue
        if asked_at >= 0 and now >= answer_at:
            gate.sampled(seen, 1, asked_at, now)
            ask_next = asked_at + (0.05 if gate.urgent else 0.25)
            asked_at = -1.0
    assert 9_000 < deepest <= 10_100
    assert dry == 0


# -- alarm -------------------------------------------------------------------------------------------------------------


def test_alarm() -> None:
    gate = SwitchGate("alarm of the broker")
    assert (gate.name, gate.over, gate.apart, gate.closed) == ("alarm of the broker", "hold", False, False)
    assert SwitchGate("channel", apart=True).apart
    gate.on_change = changes = Told()
    assert gate.open(0.0)
    gate.set(False)
    assert changes.times == 0, "it was open before"
    gate.set(True)
    assert closed(gate)
    assert not gate.open(0.0)
    assert not gate.admit(0.0)
    assert gate.wake_at(0.0) == inf
    assert changes.times == 0
    gate.set(False)
    assert changes.times == 1
    assert gate.open(0.0)
    assert gate.wake_at(5.0) == 5.0


# -- what routes ask of every gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["hold", "nack", "spool"])
def test_what_becomes_of_more_is_as_it_was_set(over: str) -> None:
    for gate in (Gate("any", over), RateGate("rate", 1.0, 1, over, 0.0), depth_gate(over=over)):
        assert (gate.over, gate.apart, gate.retired) == (over, False, False)
    assert Gate("any").over == "hold"
    assert depth_gate().name == "queue tasks of /"


def test_a_queue_that_grows_from_nothing_by_what_is_on_its_way() -> None:
    gate = depth_gate(100, 60)
    gate.sampled(0, 0, 1.0, 1.0)
    for _ in range(100):
        gate.passed(1.0)
    assert closed(gate)
    gate.sampled(0, 0, 1.1, 1.1)  # nothing has got there yet
    assert closed(gate)
    gate.sampled(20, 0, 1.5, 1.5)  # that was on its way all the time, and more may be
    assert closed(gate)
    gate.sampled(20, 0, 1.8, 1.8)
    assert not closed(gate)


@pytest.mark.parametrize("depth", [0, 1, 50, 89, 90, 99])
def test_the_estimate_is_looked_at_exactly_where_it_matters(depth: int) -> None:
    gate = depth_gate(100, 10)
    gate.sampled(depth, 0, 1.0, 1.0)
    for estimate in range(depth, 100):
        assert (urgent(gate), closed(gate)) == (estimate >= 90, False), estimate
        assert gate.estimate == estimate
        gate.passed(2.0)
    assert closed(gate)
    assert told(gate.on_urgent) == 1


# -- many at once ------------------------------------------------------------------------------------------------------


def test_a_rate_lets_as_many_through_at_once_as_one_by_one() -> None:
    gate = RateGate("rate", 10.0, 5, "hold", 0.0)
    assert not gate.fits(6, 0.0)
    assert gate.fits(5, 0.0)
    gate.took(5, 0.0)
    assert not gate.fits(1, 0.0)
    assert not gate.open(0.0)
    assert gate.fits(2, 0.2)
    gate.join(waiter(gate, 0, 1))
    assert not gate.fits(1, 9.0), "nobody passes those in line"
    gate.retire(9.0)
    assert gate.fits(100, 9.0)
    gate.took(100, 9.0)


@pytest.mark.parametrize("count", [1, 5, 9, 10, 11])
def test_a_queue_lets_as_many_through_at_once_as_change_nothing(count: int) -> None:
    gate, single = depth_gate(high=100), depth_gate(high=100)
    for each in (gate, single):
        each.sampled(80, 1, 0.0, 0.0)
    assert gate.fits(count, 1.0) is (count < 10), "with the tenth it is urgent"
    if gate.fits(count, 1.0):
        gate.took(count, 1.0)
        for _ in range(count):
            single.passed(1.0)
        assert (gate.estimate, closed(gate), urgent(gate)) == (single.estimate, closed(single), urgent(single))


def test_nobody_fits_through_a_queue_that_is_full() -> None:
    gate = depth_gate(high=100)
    assert gate.fits(1000, 0.0), "it is not known"
    gate.sampled(100, 1, 0.0, 0.0)
    assert not gate.fits(1, 0.0)


def test_a_gate_that_is_always_open_minds_those_in_line() -> None:
    gate = Gate("always")
    assert gate.fits(9, 0.0)
    gate.took(9, 0.0)
    gate.join(waiter(gate, 0, 1))
    assert not gate.fits(1, 0.0)
