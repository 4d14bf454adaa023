"""Which traces are recorded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience.sampling import ALWAYS_BURST, Sampling, slowness
from support.clock import Clock

ids = st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}")


def sampling(share: float = 0.0, errors: bool = True, slow: float = 1.0, clock: Clock | None = None) -> Sampling:
    return Sampling(share, errors, slow, clock or Clock())


@given(ids, st.floats(0, 1))
def test_the_last_56_bits_decide_as_consistent_samplers_do(trace_id: str, share: float) -> None:
    wanted = int(trace_id, 16) % 2**56 >= round((1 - share) * 2**56)
    assert sampling(share).sampled(trace_id) is wanted


@given(ids, st.floats(0, 1), st.floats(0, 1))
def test_who_samples_more_samples_all_that_others_do(trace_id: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert sampling(more).sampled(trace_id) or not sampling(less).sampled(trace_id)


@given(ids)
def test_all_and_none(trace_id: str) -> None:
    assert sampling(1.0).sampled(trace_id)
    assert not sampling(0.0).sampled(trace_id)


@pytest.mark.parametrize(
    ("errors", "slow", "failed", "seconds", "wanted"),
    [
        (True, 1.0, True, 0.0, True),
        (True, 1.0, False, 0.9, False),
        (True, 1.0, False, 1.0, True),
        (False, 1.0, True, 0.9, False),
        (False, 1.0, True, 1.0, True),
        (True, math.inf, False, 1e9, False),
        (False, math.inf, True, 1e9, False),
    ],
)
def test_what_is_always_recorded(errors: bool, slow: float, failed: bool, seconds: float, wanted: bool) -> None:
    assert sampling(0.0, errors, slow).always(failed, seconds) is wanted


def test_but_no_more_than_ten_a_second() -> None:
    clock = Clock()
    it = sampling(clock=clock)
    assert [it.always(True, 0.0) for _ in range(ALWAYS_BURST + 5)] == [True] * ALWAYS_BURST + [False] * 5
    assert it.withheld == 5
    clock.advance(0.1)
    assert [it.always(True, 0.0) for _ in range(2)] == [True, False]


def test_settings_can_change() -> None:
    it = sampling(0.0)
    it.configure(1.0, False, math.inf)
    assert it.sampled("0" * 31 + "1")
    assert not it.always(True, 5.0)
    assert slowness(("slow",), 2.0) == 2.0
    assert slowness(("errors",), 2.0) == math.inf
