from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.resilience.limiter import Limiter
from support.examples import examples


class Waiting:
    def __init__(self) -> None:
        self.turns = 0

    def granted(self) -> None:
        self.turns += 1


def test_limit_then_queue_then_refusal() -> None:
    limiter = Limiter(2, 1)
    assert limiter.limit == 2
    assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
    waiter = Waiting()
    assert limiter.enqueue(waiter)
    assert not limiter.enqueue(Waiting())
    assert (limiter.active, limiter.pending) == (2, 1)
    limiter.release()
    assert waiter.turns == 1
    assert (limiter.active, limiter.pending) == (2, 0)
    limiter.release()
    limiter.release()
    assert limiter.active == 0


def test_zero_means_no_limit_but_no_queue() -> None:
    limiter = Limiter(0, 0)
    assert all(limiter.try_acquire() for _ in range(10_000))
    assert not limiter.enqueue(Waiting())


def test_first_come_first_served_and_those_who_left_are_skipped() -> None:
    limiter = Limiter(1, 10)
    limiter.try_acquire()
    first, second, third = Waiting(), Waiting(), Waiting()
    for waiter in (first, second, third):
        limiter.enqueue(waiter)
    limiter.forget(first)
    limiter.forget(first)
    limiter.release()
    assert [w.turns for w in (first, second, third)] == [0, 1, 0]
    limiter.forget(second)
    limiter.release()
    assert third.turns == 1


def test_a_higher_limit_lets_waiters_in_and_a_lower_one_waits_for_slots() -> None:
    limiter = Limiter(1, 10)
    limiter.try_acquire()
    waiters = [Waiting() for _ in range(4)]
    for waiter in waiters:
        limiter.enqueue(waiter)
    limiter.resize(3)
    assert [w.turns for w in waiters] == [1, 1, 0, 0]
    assert limiter.active == 3
    limiter.resize(1)
    limiter.release()
    limiter.release()
    assert [w.turns for w in waiters] == [1, 1, 0, 0]
    limiter.release()
    assert [w.turns for w in waiters] == [1, 1, 1, 0]
    limiter.resize(0)
    assert limiter.limit == 0
    assert [w.turns for w in waiters] == [1, 1, 1, 1]
    assert limiter.try_acquire()


def test_a_long_queue_of_waiters_that_end_at_once_does_not_recurse() -> None:
    limiter = Limiter(1, 100_000)
    overtaken: list[bool] = []

    class AtOnce:
        def granted(self) -> None:
            overtaken.append(limiter.try_acquire())
            limiter.release()

    limiter.try_acquire()
    for _ in range(20_000):
        limiter.enqueue(AtOnce())
    limiter.release()
    assert len(overtaken) == 20_000
    assert not any(overtaken)
    assert (limiter.active, limiter.pending) == (0, 0)


class Bulkhead(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.limiter = Limiter(2, 3)
        self.holders = 0
        self.queue: list[Waiting] = []
        self.limit = 2

    def promote(self) -> None:
        while self.queue and self.holders < (self.limit or 10**9):
            assert self.queue.pop(0).turns == 1
            self.holders += 1

    @rule()
    def arrive(self) -> None:
        if self.limiter.try_acquire():
            assert not self.queue
            self.holders += 1
            return
        waiter = Waiting()
        assert self.limiter.enqueue(waiter) == (len(self.queue) < 3)
        if len(self.queue) < 3:
            self.queue.append(waiter)

    @precondition(lambda self: self.holders)
    @rule()
    def release(self) -> None:
        self.holders -= 1
        self.limiter.release()
        self.promote()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiter = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.limiter.forget(waiter)

    @rule(limit=st.integers(0, 4))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.limiter.resize(limit)
        self.promote()

    @invariant()
    def agrees(self) -> None:
        assert self.limiter.active == self.holders
        assert self.limiter.pending == len(self.queue)
        assert all(w.turns == 0 for w in self.queue)
        assert not self.queue or (self.limit and self.holders >= self.limit)


Bulkhead.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestBulkhead = Bulkhead.TestCase
