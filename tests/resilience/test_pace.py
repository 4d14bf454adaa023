"""So many bytes per second, not more and not much fewer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.pace import BURST, Pace
from support.examples import examples


@given(
    st.floats(1.0, 1e9),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 1 << 20)), max_size=30),
)
@settings(max_examples=examples(60), deadline=None)
def test_never_more_than_the_rate_allows(rate: float, turns: list[tuple[float, int]]) -> None:
    pace, now, passed = Pace(rate, 0.0), 0.0, 0
    for pause, most in turns:
        now += pause
        size = pace.take(most, now)
        assert 0 <= size <= most
        assert size <= max(2.0, rate * BURST) + 1
        passed += size
        assert passed <= rate * now * (1 + 1e-9) + 1


@given(st.floats(1.0, 1e7), st.floats(0.0, 0.02))
@settings(max_examples=examples(60), deadline=None)
def test_who_comes_when_it_is_due_and_a_little_late_gets_nearly_all(rate: float, late: float) -> None:
    pace, now, passed = Pace(rate, 0.0), 0.0, 0
    for _ in range(200):
        now = pace.due(1 << 40) + late
        size = pace.take(1 << 40, now)
        assert size > 0, "it was due, and nothing may pass"
        passed += size
    assert passed >= rate * now * 0.95 - 2


def test_a_rate_has_to_be_above_0() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pace(0.0, 0.0)
