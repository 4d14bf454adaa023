"""The retry budget: its bound holds for any ten seconds, however requests and retries come."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.budget import WINDOW, Budget


def test_a_share_of_the_requests_and_a_floor() -> None:
    budget = Budget(0.2, 0.3, 0.0)
    assert budget.left(0.0) == 3.0
    for _ in range(10):
        budget.request(0.1)
    assert budget.left(0.2) == 5.0
    assert [budget.take(0.2) for _ in range(6)] == [True] * 5 + [False]
    assert budget.left(0.2) == 0.0


def test_a_part_of_a_token_buys_nothing() -> None:
    budget = Budget(0.2, 0.0, 0.0)
    for _ in range(4):
        budget.request(0.0)
    assert not budget.take(0.0)
    budget.request(0.0)
    assert budget.take(0.0)


def test_requests_and_retries_are_forgotten() -> None:
    budget = Budget(0.5, 0.0, 100.0)
    for _ in range(10):
        budget.request(100.0)
    for _ in range(5):
        assert budget.take(101.0)
    assert budget.left(109.4) == 0.0
    budget.request(111.9)
    budget.request(111.9)
    assert budget.left(111.9) == 1.0
    assert budget.left(1e9) == 0.0


def test_other_numbers_leave_what_was_counted() -> None:
    budget = Budget(0.1, 0.0, 0.0)
    for _ in range(100):
        budget.request(0.0)
    for _ in range(10):
        budget.take(0.0)
    budget.configure(0.2, 0.0)
    assert budget.left(0.0) == 10.0


def test_without_a_bound_everything_is_paid_for() -> None:
    budget = Budget(inf, 0.0, 0.0)
    assert all(budget.take(0.0) for _ in range(1000))
    assert budget.left(0.0) == inf


def test_time_that_stands_still_or_seems_to_go_back() -> None:
    budget = Budget(1.0, 0.0, 50.0)
    budget.request(49.0)
    budget.request(0.0)
    assert budget.left(50.0) == 2.0


#: (seconds to the event before it, whether it is a request).
EVENTS = st.lists(st.tuples(st.floats(0.0, 4.0), st.booleans()), max_size=200)


@settings(deadline=None)
@given(EVENTS, st.floats(0.0, 1.0), st.floats(0.0, 3.0))
def test_the_bound_holds_for_any_ten_seconds(events: list[tuple[float, bool]], ratio: float, least: float) -> None:
    budget = Budget(ratio, least, 0.0)
    now = 0.0
    requests: list[float] = []
    retries: list[float] = []
    for gap, is_request in events:
        now += gap
        if is_request:
            budget.request(now)
            requests.append(now)
        elif budget.take(now):
            retries.append(now)
            spent = sum(now - WINDOW < at for at in retries)
            assert spent <= ratio * sum(now - WINDOW < at for at in requests) + least * WINDOW + 1e-6
