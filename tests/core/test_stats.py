from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.stats import BUCKETS, MAX_REASONS, Histogram, ListenerStats


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [1, 2, 1]
    assert histogram.total == 7.0


@given(st.lists(st.floats(0, 1000)), st.floats(0, 1))
def test_nothing_is_lost_and_quantiles_are_within_the_bounds(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    assert histogram.count() == len(values)
    assert histogram.total == pytest.approx(sum(values))
    assert 0 <= histogram.quantile(q) <= BUCKETS[-1]


@given(st.lists(st.floats(0, 100), min_size=1))
def test_quantiles_grow(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    found = [histogram.quantile(q / 10) for q in range(11)]
    assert found == sorted(found)


def test_quantiles_are_interpolated() -> None:
    histogram = Histogram((1.0, 2.0))
    for _ in range(10):
        histogram.observe(1.5)
    assert histogram.quantile(0.5) == 1.5
    assert Histogram().quantile(0.99) == 0


def test_above_every_bound_the_highest_is_what_can_be_said() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(50.0)
    assert histogram.quantile(0.5) == 1.0


def test_a_listener_starts_at_nothing() -> None:
    stats = ListenerStats("outbound", "x")
    assert (stats.active, stats.pending, stats.bytes_in, dict(stats.requests)) == (0, 0, 0, {})
    with pytest.raises(AttributeError):
        stats.anything = 1  # type: ignore[attr-defined]


def test_reasons_for_another_try_are_bounded() -> None:
    stats = ListenerStats("outbound", "x")
    for number in range(1000):
        stats.retried(f"reason {number}")
    stats.retried("reason 0")
    assert len(stats.retries) == MAX_REASONS + 1
    assert (stats.retries["reason 0"], stats.retries["other"]) == (2, 1000 - MAX_REASONS)
