from __future__ import annotations

from typing import Literal, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.resilience.breaker import BY_HAND, CLOSED, HALF_OPEN, OPEN, CircuitBreaker, Hold, held_words
from support.clock import Clock
from support.examples import examples

#: Failures in a row that open it, seconds until trial calls, and how many of them.
NUMBERS = (5, 60.0, 3)


def setup() -> tuple[Clock, CircuitBreaker, list[int]]:
    clock = Clock()
    states: list[int] = []
    return clock, CircuitBreaker(*NUMBERS, clock, lambda b: states.append(b.state)), states


def fail(breaker: CircuitBreaker, times: int = 5) -> None:
    for _ in range(times):
        token = breaker.allow()
        assert token
        breaker.failure(token)


def test_opens_after_failures_in_a_row() -> None:
    clock, breaker, states = setup()
    assert breaker.opened_at == 0.0
    fail(breaker, 4)
    breaker.success(breaker.allow())
    assert breaker.failures == 0
    fail(breaker, 4)
    assert breaker.state == CLOSED
    assert breaker.retry_after() == 0
    fail(breaker, 1)
    assert breaker.state == OPEN
    assert states == [OPEN]
    assert breaker.opened_at == clock.now
    assert breaker.allow() == 0
    assert breaker.retry_after() == 60
    clock.advance(59.5)
    assert breaker.allow() == 0
    assert breaker.retry_after() == 0.5
    assert breaker.open_seconds() == 59.5


def test_half_open_lets_a_fixed_number_try_and_closes_when_all_succeed() -> None:
    clock, breaker, states = setup()
    fail(breaker)
    clock.advance(60)
    assert breaker.state == HALF_OPEN
    assert breaker.retry_after() == 0
    tokens = [breaker.allow() for _ in range(5)]
    assert [bool(t) for t in tokens] == [True, True, True, False, False]
    assert breaker.retry_after() == 1
    breaker.success(tokens[0])
    assert breaker.allow() == 0
    breaker.success(tokens[1])
    assert breaker.state == HALF_OPEN
    breaker.success(tokens[2])
    assert breaker.state == CLOSED
    assert breaker.failures == 0
    assert states == [OPEN, HALF_OPEN, CLOSED]
    clock.advance(1000)
    assert breaker.open_seconds() == 60


def test_one_failure_in_half_open_opens_again() -> None:
    clock, breaker, states = setup()
    fail(breaker)
    clock.advance(60)
    first, second = breaker.allow(), breaker.allow()
    breaker.success(first)
    breaker.failure(second)
    assert breaker.state == OPEN
    assert breaker.retry_after() == 60
    clock.advance(30)
    assert breaker.allow() == 0
    clock.advance(30)
    assert breaker.allow()
    assert states == [OPEN, HALF_OPEN, OPEN, HALF_OPEN]
    assert breaker.open_seconds() == 120


def test_an_idle_half_open_breaker_is_not_counted_as_open() -> None:
    clock, breaker, _ = setup()
    fail(breaker)
    clock.advance(500)
    assert breaker.open_seconds() == 60
    breaker.allow()
    assert breaker.open_seconds() == 60


def test_a_cancelled_trial_gives_its_permit_back() -> None:
    clock, breaker, _ = setup()
    fail(breaker)
    clock.advance(60)
    for _ in range(10):
        tokens = [breaker.allow() for _ in range(3)]
        assert not breaker.allow()
        for token in tokens:
            breaker.cancel(token)
    for _ in range(3):
        breaker.success(breaker.allow())
    assert breaker.state == CLOSED


def test_outcomes_of_an_earlier_state_do_not_count() -> None:
    clock, breaker, _ = setup()
    old = [breaker.allow() for _ in range(20)]
    fail(breaker)
    breaker.failure(old.pop())
    breaker.success(old.pop())
    breaker.cancel(old.pop())
    assert breaker.state == OPEN
    clock.advance(60)
    tokens = [breaker.allow() for _ in range(3)]
    breaker.failure(old.pop())
    assert breaker.state == HALF_OPEN
    for _ in range(5):
        breaker.success(old.pop())
        breaker.cancel(old.pop())
    assert breaker.state == HALF_OPEN
    assert not breaker.allow()
    for token in tokens:
        breaker.success(token)
    for token in old:
        breaker.failure(token)
    assert breaker.state == CLOSED
    assert breaker.failures == 0


def test_forced_open_stays_open_until_auto() -> None:
    clock, breaker, states = setup()
    breaker.force("open")
    assert (breaker.forced, breaker.state) == ("open", OPEN)
    clock.advance(10_000)
    assert breaker.allow() == 0
    assert breaker.state == OPEN
    assert breaker.retry_after() == 60
    assert breaker.open_seconds() == 10_000
    breaker.force("auto")
    assert (breaker.forced, breaker.state, breaker.failures) == ("auto", CLOSED, 0)
    assert breaker.allow()
    assert states == [OPEN, CLOSED]
    assert breaker.open_seconds() == 10_000


def test_forced_closed_counts_nothing() -> None:
    _, breaker, _ = setup()
    fail(breaker)
    breaker.force("close")
    assert (breaker.forced, breaker.state) == ("closed", CLOSED)
    fail(breaker, 100)
    assert breaker.state == CLOSED
    assert breaker.failures == 0
    token = breaker.allow()
    breaker.force("auto")
    breaker.failure(token)
    assert breaker.failures == 0
    fail(breaker)
    assert breaker.state == OPEN


def test_forcing_open_what_is_open_keeps_the_time_counted() -> None:
    clock, breaker, states = setup()
    fail(breaker)
    clock.advance(10)
    breaker.force("open")
    clock.advance(100)
    assert breaker.open_seconds() == 110
    assert states == [OPEN]


def test_unknown_mode_is_refused() -> None:
    _, breaker, _ = setup()
    with pytest.raises(ValueError, match=r"open, close or auto, not 'closed'"):
        breaker.force(cast(Literal["open"], "closed"))
    assert breaker.forced == "auto"


class Breaker(RuleBasedStateMachine):
    """Against a model that keeps a list of what happened since the state began."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(3, 10.0, 2, self.clock)
        self.state = CLOSED
        self.period = 0
        self.row = 0
        self.successes = 0
        self.under_way = 0
        self.until = 0.0
        self.open_total = 0.0
        #: token and the period that it is from
        self.tokens: list[tuple[int, int]] = []

    def enter(self, state: int) -> None:
        self.state = state
        self.period += 1
        self.row = self.successes = self.under_way = 0
        if state == OPEN:
            self.until = self.clock.now + 10

    def settle(self) -> None:
        if self.state == OPEN and self.clock.now >= self.until:
            self.enter(HALF_OPEN)

    @rule()
    def allow(self) -> None:
        self.settle()
        token = self.breaker.allow()
        expected = self.state == CLOSED or (self.state == HALF_OPEN and self.under_way + self.successes < 2)
        assert bool(token) == expected
        if token:
            assert token >= 1
            self.under_way += 1
            self.tokens.append((token, self.period))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), outcome=st.sampled_from(["success", "failure", "failure", "cancel"]))
    def finish(self, data: st.DataObject, outcome: str) -> None:
        token, period = self.tokens.pop(data.draw(st.integers(0, len(self.tokens) - 1)))
        getattr(self.breaker, outcome)(token)
        if period != self.period:
            return
        self.under_way -= 1
        if outcome == "failure":
            self.row += 1
            if self.state == HALF_OPEN or self.row == 3:
                self.enter(OPEN)
        elif outcome == "success":
            self.row = 0
            self.successes += 1
            if self.state == HALF_OPEN and self.successes == 2:
                self.enter(CLOSED)

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        if self.state == OPEN:
            self.open_total += max(0.0, min(seconds, self.until - self.clock.now))
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        self.settle()
        assert self.breaker.state == self.state
        assert self.breaker.open_seconds() == self.open_total
        if self.state == CLOSED:
            assert self.breaker.failures == self.row
        if self.state == OPEN:
            assert self.breaker.retry_after() == self.until - self.clock.now


Breaker.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestBreaker = Breaker.TestCase


def test_what_is_well_elsewhere_closes_it_at_once() -> None:
    clock, breaker, states = setup()
    late = breaker.allow()
    fail(breaker)
    breaker.recovered()
    assert states == [OPEN, CLOSED]
    assert breaker.allow()
    breaker.failure(late)  # of before
    fail(breaker, 4)
    assert breaker.state == CLOSED
    fail(breaker, 1)
    clock.advance(60)
    assert breaker.allow()
    assert breaker.state == HALF_OPEN
    breaker.recovered()
    assert breaker.state == CLOSED
    assert states == [OPEN, CLOSED, OPEN, HALF_OPEN, CLOSED]


def test_an_operators_word_is_not_overruled() -> None:
    _, breaker, _ = setup()
    breaker.force("open")
    breaker.recovered()
    assert breaker.state == OPEN


def test_a_hold_ends_by_itself() -> None:
    clock, breaker, states = setup()
    hold = Hold("ops", "moving", 0.0, 0.0)
    breaker.force("open", hold, 30.0)
    assert (breaker.forced, breaker.held, breaker.cause) == ("open", hold, BY_HAND)
    clock.advance(29)
    assert (breaker.allow(), breaker.retry_after()) == (0, 1.0)
    clock.advance(1)
    assert breaker.state == CLOSED
    assert breaker.allow()
    assert (breaker.forced, breaker.held, breaker.state) == ("auto", None, CLOSED)
    assert states == [OPEN, CLOSED]
    assert breaker.open_seconds() == 30.0


def test_a_hold_that_is_taken_back_is_over() -> None:
    clock, breaker, states = setup()
    breaker.force("open", Hold("ops", "moving", 0.0, 0.0), 30.0)
    breaker.force("auto", Hold("ops", "moved", 0.0, 0.0), 30.0)
    assert (breaker.forced, breaker.held, breaker.state) == ("auto", None, CLOSED)
    fail(breaker)
    clock.advance(30)
    breaker.look()
    assert states == [OPEN, CLOSED, OPEN], "its end is not waited for"


def test_it_is_said_why_it_is_closed_again() -> None:
    _, breaker, _ = setup()
    fail(breaker)
    breaker.recovered()
    assert (breaker.state, breaker.cause) == (CLOSED, "it is known to be well again")


def test_the_end_of_a_hold_that_let_all_through_is_told_too() -> None:
    clock, breaker, states = setup()
    breaker.force("close", Hold("ops", "", 0.0, 0.0), 30.0)
    fail(breaker)
    assert breaker.state == CLOSED
    clock.advance(30)
    breaker.failure(breaker.allow())
    assert (breaker.forced, states) == ("auto", [CLOSED])
    assert "is over" in breaker.cause
    fail(breaker)
    assert (breaker.state, breaker.cause) == (OPEN, "5 failures in a row")


def test_a_later_word_counts() -> None:
    clock, breaker, _ = setup()
    breaker.force("open", Hold("a", "", 0.0, 0.0), 30.0)
    breaker.force("open", Hold("b", "", 0.0, 0.0))
    clock.advance(10_000)
    breaker.look()
    assert breaker.allow() == 0
    assert breaker.retry_after() == NUMBERS[1]
    assert breaker.held is not None
    assert breaker.held.by == "b"


@pytest.mark.parametrize(
    ("hold", "words"),
    [
        (None, "held open by hand"),
        (Hold("", "", 0.0, 0.0), "held open by hand"),
        (Hold("ops", "", 0.0, 0.0), "held open by ops"),
        (Hold("ops", "moving", 0.0, 61.0), "held open by ops, until 1970-01-01T00:01:01.000Z: moving"),
    ],
)
def test_a_hold_in_words(hold: Hold | None, words: str) -> None:
    assert held_words("open", hold) == words


def test_when_others_can_answer_it_is_tried_sooner_and_then_more_rarely() -> None:
    clock, breaker, _ = setup()
    breaker.covered = True
    fail(breaker)
    waits = []
    for _ in range(6):
        waits.append(breaker.retry_after())
        clock.now += waits[-1]
        assert breaker.room() == 3
        token = breaker.allow()
        assert breaker.room() == 2
        breaker.failure(token)
        assert breaker.room() == 0
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    clock.now += 5.0
    for _ in range(3):
        breaker.success(breaker.allow())
    assert breaker.state == CLOSED
    assert breaker.room() > 1_000_000
    fail(breaker)
    assert breaker.retry_after() == 1.0


def test_its_own_time_is_kept_where_that_is_shorter() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 0.5, 1, clock)
    breaker.covered = True
    fail(breaker, 1)
    assert breaker.retry_after() == 0.5


def test_it_is_asked_before_its_time_when_there_is_a_reason() -> None:
    clock, breaker, states = setup()
    breaker.ask("an instance has come")
    assert breaker.state == CLOSED
    fail(breaker)
    clock.now += 10.0
    breaker.ask("an instance has come")
    assert breaker.state == HALF_OPEN
    assert breaker.open_seconds() == 10.0
    breaker.failure(breaker.allow())
    assert (breaker.state, breaker.retry_after()) == (OPEN, 60.0)
    clock.now += 60.0
    breaker.allow()
    assert breaker.cause == "its time is over, and it is tried again"
    assert states == [OPEN, HALF_OPEN, OPEN, HALF_OPEN]


def test_an_operator_is_not_asked() -> None:
    _, breaker, _ = setup()
    breaker.force("open")
    breaker.ask("an instance has come")
    assert breaker.state == OPEN
    assert breaker.room() == 0
