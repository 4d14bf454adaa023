"""Priorities, and the order under an overload."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.resilience.adaptive_limit import GOOD
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
    first, second = Waiting(), Waiting()
    limiter.join(first)
    limiter.join(second)
    limiter.leave(first)
    limiter.leave(first)
    limiter.done(GOOD, 0.0, 1.0)
    assert (first.turns, second.turns, limiter.pending) == (0, 1, 0)


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
