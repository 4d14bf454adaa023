"""The quantile of the latest latencies: near the true one, and of the latest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.quantile import HALF, STEP, Quantile


def test_too_few_say_nothing() -> None:
    it = Quantile(0.95, 100)
    for number in range(100):
        assert it.value() == 0.0
        it.add(1.0 if number < 10 else 0.01)
    assert 1.0 <= it.value() <= STEP


def test_what_is_old_is_forgotten() -> None:
    it = Quantile(0.95, 10)
    for seconds in (10.0, 0.1):
        for _ in range(2 * HALF):
            it.add(seconds)
    assert 0.1 <= it.value() <= 0.1 * STEP


def test_times_beyond_all_bounds() -> None:
    it = Quantile(0.5, 1)
    for seconds in (0.0, -1.0, 1e-9):
        it.add(seconds)
    assert 0 < it.value() < 0.001
    for _ in range(100):
        it.add(1e9)
    assert it.value() > 30


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 50.0), min_size=20, max_size=300), st.sampled_from([0.5, 0.9, 0.95]))
def test_it_is_at_most_a_step_too_large(seconds: list[float], share: float) -> None:
    it = Quantile(share, 20)
    for each in seconds:
        it.add(each)
    it._due = 0
    at = int(len(seconds) * share)
    near = sorted(seconds)[at - 1 : at + 2]
    assert near[0] * 0.999 <= it.value() <= near[-1] * STEP * 1.001
