"""Priorities, and the order under an overload."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.resilience.adaptive_limit import GOOD, NEITHER
from sidecar.resilience.priority_limiter import CRITICAL, LOW, NORMAL, Candidate, PriorityLimiter
from support.examples import examples
from support.slots import Run, adaptive, always


class Waiting(Candidate):
    def __init__(self, priority: int = NORMAL, since: float = 0.0) -> None:
        super().__init__(priority, since)
        self.turns = 0
        self.reason = ""

    def granted(self) -> None:
        self.turns += 1

    def shed(self, reason: str) -> None:
        self.reason = reason


def full(limit: int = 1, pending: int = 10) -> PriorityLimiter:
    limiter = PriorityLimiter(limit, pending)
    while limiter.admit(0.0):
        pass
    return limiter


def test_critical_first_low_last_and_in_their_order_otherwise() -> None:
    limiter = full()
    waiting = [Waiting(priority) for priority in (LOW, NORMAL, CRITICAL, NORMAL, CRITICAL)]
    for it in waiting:
        assert limiter.join(it)
    assert limiter.waiting() == {"critical": 2, "normal": 2, "low": 1}
    order = []
    for _ in waiting:
        before = [it.turns for it in waiting]
        limiter.done(GOOD, 0.0, 1.0)
        order.append(next(n for n, it in enumerate(waiting) if it.turns != before[n]))
    assert order == [2, 4, 1, 3, 0]


def test_in_a_full_queue_what_is_less_important_gives_its_place_up() -> None:
    limiter = full(pending=2)
    low, normal = Waiting(LOW), Waiting(NORMAL)
    assert limiter.join(low)
    assert limiter.join(normal)
    assert not limiter.join(Waiting(LOW))
    critical = Waiting(CRITICAL)
    assert limiter.join(critical)
    assert (low.reason, normal.reason) == ("displaced", "")
    assert limiter.join(Waiting(CRITICAL))
    assert normal.reason == "displaced"
    assert not limiter.join(Waiting(CRITICAL))
    assert limiter.pending == 2


def test_who_gives_up_is_passed_over() -> None:
    limiter = full()
    first, second, third = waiting = [Waiting() for _ in range(3)]
    for it in waiting:
        limiter.join(it)
    limiter.leave(first)
    limiter.leave(first)
    assert limiter.pending == 2
    limiter.done(GOOD, 0.0, 1.0)
    assert (first.turns, second.turns, third.turns, limiter.pending) == (0, 1, 0, 1)


def test_a_higher_limit_lets_those_in_who_wait() -> None:
    limiter = full()
    waiting = [Waiting() for _ in range(3)]
    for it in waiting:
        limiter.join(it)
    limiter.change(3, 1.0)
    assert [it.turns for it in waiting] == [1, 1, 0]
    limiter.change(0, 1.0)
    assert [it.turns for it in waiting] == [1, 1, 1]
    assert limiter.admit(1.0)


def test_other_bounds_of_a_limit_that_is_found_let_those_in_who_wait() -> None:
    limiter = adaptive(ceiling=2)
    assert limiter.adaptive is not None
    assert limiter.admit(0.0)
    assert limiter.admit(0.0)
    assert not limiter.admit(0.0)
    waiting = [Waiting() for _ in range(3)]
    for it in waiting:
        limiter.join(it)
    limiter.adaptive.resize(4, 8)
    limiter.change(0, 1.0)
    assert (limiter.limit, limiter.active) == (4, 4)
    assert [it.turns for it in waiting] == [1, 1, 0]


def test_a_slot_goes_back_in_one_way_only() -> None:
    with pytest.raises(NotImplementedError):
        full().release()


def test_a_queue_that_stays_serves_the_newest_first_and_sheds_what_has_waited() -> None:
    limiter = adaptive(floor=1, ceiling=1)
    assert limiter.adaptive is not None
    assert limiter.admit(0.0)
    limiter.adaptive.latency = 0.1
    old, new = Waiting(since=0.0), Waiting(since=0.27)
    limiter.join(old)
    limiter.join(new)
    limiter.done(GOOD, 0.0, 0.3)
    assert (old.reason, new.turns) == ("stale", 1)
    a, b = Waiting(since=0.4), Waiting(since=0.41)
    limiter.join(a)
    limiter.join(b)
    assert limiter.overloaded(0.42, NORMAL), "it has been so a moment ago"
    limiter.done(GOOD, 0.3, 0.42)
    assert (a.turns, b.turns) == (0, 1)
    limiter.done(GOOD, 0.42, 0.44)
    assert a.turns == 1
    limiter.done(GOOD, 0.44, 0.45)
    assert not limiter.overloaded(2.0, NORMAL)


def one_slot(latency: float) -> PriorityLimiter:
    """A limit of one, which is taken, and what a request takes is known."""
    limiter = adaptive(floor=1, ceiling=1, max_pending=10_000)
    assert limiter.admit(0.0)
    assert limiter.adaptive is not None
    limiter.adaptive.latency = latency
    return limiter


@pytest.mark.parametrize(
    ("priority", "latency", "seconds"),
    [(CRITICAL, 0.125, 1.0), (CRITICAL, 2.0, 2.0), (NORMAL, 0.125, 0.25), (NORMAL, 0.5, 0.5), (LOW, 0.125, 0.25)],
)
def test_a_queue_that_is_there_for_a_while_is_an_overload(priority: int, latency: float, seconds: float) -> None:
    """A second, or a quarter, or what a request takes; of that priority alone. It is over as long after the queue is,
    or twice as long as a request takes."""
    limiter = one_slot(latency)
    candidate = Waiting(priority, 0.5)
    assert limiter.join(candidate)
    assert not limiter.overloaded(0.5, priority)
    assert not limiter.overloaded(0.5 + seconds, priority)
    assert limiter.overloaded(0.5 + seconds + 1 / 64, priority)
    assert not any(limiter.overloaded(9.0, other) for other in (CRITICAL, NORMAL, LOW) if other != priority)
    limiter.leave(candidate)
    end = 0.5 + seconds + 1 / 64 + max(0.25, 2 * latency)
    assert limiter.overloaded(end - 1 / 64, priority)
    assert not limiter.overloaded(end, priority)


def test_without_a_limit_that_is_found_there_is_no_overload() -> None:
    limiter = full()
    limiter.join(Waiting())
    assert not limiter.overloaded(60.0, NORMAL)
    limiter = one_slot(0.0)
    limiter.join(Waiting())
    assert not limiter.overloaded(60.0, NORMAL), "it is not known yet how long one takes"


def longest(limiter: PriorityLimiter, now: float, priority: int, step: float) -> float:
    """Give a slot back while some have waited for each multiple of so many seconds; return the longest of those that
    was not shed."""
    times = [number * step for number in range(400, 0, -1)]
    waiting = [Waiting(priority, now - seconds) for seconds in times]
    for it in waiting:
        assert limiter.join(it)
    limiter.done(GOOD, now, now)
    left = [seconds for seconds, it in zip(times, waiting, strict=True) if not it.reason]
    assert waiting[-1].turns == 1, "the newest one is first"
    assert limiter.pending == len(left) - 1
    assert {it.reason for it in waiting} <= {"", "stale"}
    return left[0]


@pytest.mark.parametrize("priority", [CRITICAL, NORMAL, LOW])
@pytest.mark.parametrize(("shed", "granted"), [(0, 0), (10, 0), (20, 0), (30, 0), (60, 0), (60, 29), (60, 99)])
def test_how_long_one_may_wait_depends_on_how_many_are_shed(priority: int, shed: int, granted: int) -> None:
    """Of about the last 64: those that are let in say so, too. Up to a fifth, less than twice what a request takes;
    from nine twentieths on less than half of it."""
    limiter = one_slot(1.0)
    for number in range(shed):
        assert limiter.join(Waiting(priority, number / 1024))
    limiter.done(GOOD, 3.0, 3.0)
    assert limiter.admit(3.0)
    for _ in range(granted):
        assert limiter.join(Waiting(priority, 3.0))
        limiter.done(GOOD, 3.0, 3.0)
    share = (1 - (63 / 64) ** shed) * (63 / 64) ** granted
    bound = 2.0 - 1.5 * min(max((share - 0.2) / 0.25, 0.0), 1.0)
    assert longest(limiter, 4.0, priority, 1 / 128) == ceil(bound * 128 - 1) / 128


def test_a_few_milliseconds_one_may_wait_however_quick_the_server_is() -> None:
    limiter = one_slot(1 / 4096)
    assert longest(limiter, 4.0, NORMAL, 1 / 1024) == 5 / 1024


def test_after_an_overload_what_was_shed_is_forgotten() -> None:
    limiter = one_slot(0.5)
    for _ in range(60):
        assert limiter.join(Waiting())
    limiter.done(GOOD, 3.0, 3.0)
    assert limiter.pending == 0
    assert limiter.overloaded(3.875, NORMAL)
    assert not limiter.overloaded(4.0, NORMAL), "twice what a request takes after the last one that was shed"
    assert limiter.admit(4.0)
    assert longest(limiter, 9.0, NORMAL, 1 / 64) == 63 / 64


def test_one_that_waited_longest_gives_its_place_up() -> None:
    limiter = full(pending=3)
    first, second, third = Waiting(LOW), Waiting(LOW), Waiting(LOW)
    for it in (first, second, third):
        limiter.join(it)
    assert limiter.join(Waiting(NORMAL))
    assert (first.reason, second.reason, third.reason, limiter.pending) == ("displaced", "", "", 3)


class Brief(Waiting):
    """Gives its slot back at once."""

    def __init__(self, limiter: PriorityLimiter) -> None:
        super().__init__()
        self.limiter = limiter

    def granted(self) -> None:
        super().granted()
        self.limiter.done(GOOD, 0.0, 0.0)


def test_a_long_queue_of_those_who_give_their_slot_back_at_once() -> None:
    limiter = full(pending=5000)
    waiting = [Brief(limiter) for _ in range(5000)]
    for it in waiting:
        assert limiter.join(it)
    limiter.done(GOOD, 0.0, 0.0)
    assert {it.turns for it in waiting} == {1}
    assert (limiter.active, limiter.pending) == (0, 0)


@pytest.mark.parametrize(("waits", "let_in", "newcomer"), [(29, 29, True), (30, 30, False), (31, 30, False)])
def test_when_the_limit_grows_those_who_wait_come_first(waits: int, let_in: int, newcomer: bool) -> None:
    limiter = adaptive()
    for _ in range(20):
        assert limiter.admit(0.0)
    assert not limiter.admit(0.0), "ten from now on"
    for _ in range(10):
        limiter.done(NEITHER, 0.0, 0.0)
    for outcome in (NEITHER, GOOD):  # the former say nothing
        assert not limiter.admit(1.0)
        for _ in range(40):
            limiter.done(outcome, 0.75, 1.0)
            assert limiter.admit(1.0)
    waiting = [Waiting(since=1.0) for _ in range(waits)]
    for it in waiting:
        assert not limiter.admit(1.0)
        assert limiter.join(it)
    assert limiter.admit(1.25) == newcomer, "forty"
    assert (limiter.active, limiter.limit) == (40, 20)
    assert sum(it.turns for it in waiting) == let_in


def test_a_burst_is_served_in_its_order_and_whole() -> None:
    """Forty at once, for eight slots: nobody is shed, as it is over soon."""
    run = Run(adaptive(), 8, always(0.005), lambda now: 4000 if 1.0 <= now < 1.01 else 200).until(3)
    assert not run.shed


def test_what_is_critical_is_not_shed_while_there_is_room_for_it() -> None:
    """Twice the capacity, three tenths of it critical: 60 % of what can be done."""
    priorities = (CRITICAL,) * 3 + (NORMAL,) * 3 + (LOW,) * 4
    run = Run(adaptive(), 8, always(0.02), 800, priorities=priorities).until(30)
    shed = {priority: sum(n for (of, _), n in run.shed.items() if of == priority) for priority in run.came}
    assert run.came[CRITICAL] > 5000
    assert shed[CRITICAL] < 0.001 * run.came[CRITICAL]
    assert shed[LOW] > 0.8 * run.came[LOW]
    assert shed[NORMAL] < 0.65 * run.came[NORMAL]


def test_low_is_let_in_as_soon_as_there_is_room() -> None:
    run = Run(adaptive(), 8, always(0.02), lambda now: 800 if now < 10 else 300, priorities=(CRITICAL, LOW)).until(11)
    shed = sum(run.shed.values())
    run.until(20)
    assert sum(run.shed.values()) - shed < 0.01 * 9 * 300


def test_clients_that_give_up_get_more_when_the_newest_goes_first() -> None:
    """A server does not notice that a client has left. First come, first served: all wait until they are about to."""
    found = {}
    for name, limiter in (("as they came", PriorityLimiter(8, 200)), ("newest first", adaptive())):
        run = Run(limiter, 8, always(0.05), 320, patience=0.3).until(20)
        found[name] = run.goodput(5, 20) / 160
    assert found["newest first"] >= 0.9
    assert found["as they came"] < 0.5


class Queue(RuleBasedStateMachine):
    """Against a list: slots are never exceeded, none stays free while one waits, and order is by priority."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = PriorityLimiter(2, 3)
        self.limit = 2
        self.holders = 0
        self.queue: list[Waiting] = []

    def promote(self) -> None:
        while self.queue and self.holders < (self.limit or 10**9):
            first = min(self.queue, key=lambda it: it.priority)
            assert first.turns == 1
            self.queue.remove(first)
            self.holders += 1

    @rule(priority=st.sampled_from((CRITICAL, NORMAL, LOW)))
    def comes(self, priority: int) -> None:
        if self.limiter.admit(0.0):
            assert not self.queue
            self.holders += 1
            return
        it = Waiting(priority)
        joined = self.limiter.join(it)
        less = [other for other in self.queue if other.priority > priority]
        assert joined == (len(self.queue) < 3 or bool(less))
        if joined:
            if len(self.queue) == 3:
                loser = max(less, key=lambda other: other.priority)
                assert loser.reason == "displaced"
                self.queue.remove(loser)
            self.queue.append(it)

    @precondition(lambda self: self.holders)
    @rule()
    def done(self) -> None:
        self.holders -= 1
        self.limiter.done(GOOD, 0.0, 0.0)
        self.promote()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        self.limiter.leave(self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1))))

    @rule(limit=st.integers(0, 4))
    def change(self, limit: int) -> None:
        self.limit = limit
        self.limiter.change(limit, 0.0)
        self.promote()

    @invariant()
    def agrees(self) -> None:
        assert self.limiter.active == self.holders
        assert self.limiter.pending == len(self.queue) <= 3
        assert not any(it.turns or it.reason for it in self.queue)
        assert not self.queue or (self.limit and self.holders >= self.limit)


Queue.TestCase.settings = settings(max_examples=examples(50), stateful_step_count=30, deadline=None)
TestQueue = Queue.TestCase
