from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.token_bucket import KeyedBuckets, TokenBucket
from support.clock import Clock
from support.examples import examples


def test_burst_then_rate() -> None:
    bucket = TokenBucket(10, 5, 1000.0)
    assert [bucket.take(1000.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1000.0) == pytest.approx(0.1)
    assert bucket.take(1000.05) == pytest.approx(0.05)
    assert bucket.take(1000.1) == 0.0
    assert bucket.take(1000.1) > 0
    assert [bucket.take(2000.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(2000.0) > 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0)])
def test_impossible_settings(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        TokenBucket(rate, burst, 0.0)
    with pytest.raises(ValueError, match="rate above 0"):
        KeyedBuckets(rate, burst, Clock())


@settings(max_examples=examples(150), deadline=None)
@given(
    rate=st.floats(0.01, 10_000),
    burst=st.integers(1, 50),
    start=st.floats(0, 1e6),
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=120),
)
def test_never_more_than_burst_plus_rate_and_never_less(
    rate: float, burst: int, start: float, steps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst, start)
    now = start
    tokens = float(burst)
    for step in steps:
        advance = step * burst / rate / 10
        now, before = now + advance, now
        tokens = min(burst, tokens + (now - before) * rate)
        wait = bucket.take(now)
        assert wait >= 0
        # What the clock's own resolution makes of a token, besides the slack.
        blur = 0.002 + math.ulp(now) * rate * len(steps)
        if wait == 0.0:
            assert tokens >= 1 - blur
            tokens -= 1
        else:
            assert tokens < 1 + blur
            assert wait <= (1 - tokens + blur) / rate
            assert bucket.take(now + wait) == 0.0, "there is a token after the wait"
            return


@given(
    rate=st.sampled_from([0.5, 10.0, 1e6]),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 9))),
)
def test_many_at_once_are_as_many_one_by_one(rate: float, burst: int, steps: list[tuple[int, float]]) -> None:
    together, single = TokenBucket(rate, burst, 0.0), TokenBucket(rate, burst, 0.0)
    now = 0.0
    for count, wait in steps:
        now += wait / rate
        if together.has(count, now):
            together.spend(count, now)
            assert [single.take(now) for _ in range(count)] == [0.0] * count
        else:
            probe = TokenBucket(rate, burst, 0.0)
            probe._full_at = single._full_at
            assert any(probe.take(now) > 0 for _ in range(count))


def test_each_key_has_its_bucket() -> None:
    clock = Clock()
    buckets = KeyedBuckets(1, 2, clock)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, pytest.approx(1)]
    assert buckets.take("b") == 0.0
    assert buckets.take(b"a") == 0.0
    clock.advance(1)
    assert buckets.take("a") == 0.0
    assert len(buckets) == 3


def test_the_number_of_keys_is_bounded() -> None:
    assert KeyedBuckets(1, 2, Clock()).max_keys == 10_000
    buckets = KeyedBuckets(1, 2, Clock(), max_keys=100)
    for i in range(1000):
        assert buckets.take(str(i)) == 0.0
        assert len(buckets) <= 100
    assert len(buckets) == 100


def test_a_full_bucket_is_dropped_before_one_in_use() -> None:
    clock = Clock()
    buckets = KeyedBuckets(1, 10, clock, max_keys=3)
    for _ in range(10):
        buckets.take("busy")
    buckets.take("once")
    buckets.take("other")
    clock.advance(1.5)
    assert buckets.take("busy") == 0.0
    buckets.take("other")
    # The least recently used is "once", and full: it goes. Then nobody is full, and the least recently used goes.
    buckets.take("new")
    assert buckets.take("busy") > 0
    assert len(buckets) == 3
    buckets.take("newer")
    assert len(buckets) == 3
    assert buckets.take("busy") > 0


def test_a_full_bucket_behind_a_busy_one_is_found() -> None:
    clock = Clock()
    buckets = KeyedBuckets(1, 10, clock, max_keys=3)
    for _ in range(10):
        buckets.take("busy")
    buckets.take("once")
    clock.advance(2)
    buckets.take("other")
    buckets.take("new")
    assert len(buckets) == 3
    assert buckets.take("busy") == 0.0
    assert buckets.take("busy") == 0.0
    assert buckets.take("busy") > 0, "two tokens came in two seconds; the bucket is still the old one"


def test_the_table_shrinks_when_a_crowd_has_gone() -> None:
    clock = Clock()
    buckets = KeyedBuckets(1, 2, clock, max_keys=1000)
    for i in range(1000):
        buckets.take(str(i))
    clock.advance(10)
    for i in range(600):
        buckets.take(f"new {i}")
    assert len(buckets) < 700


def test_long_keys_are_not_stored() -> None:
    buckets = KeyedBuckets(1, 1, Clock())
    assert buckets.take(b"x" * 65_000) == 0.0
    assert buckets.take(b"x" * 65_000) > 0
    assert buckets.take(b"x" * 65_001) == 0.0
    assert all(isinstance(key, int) for key in buckets._full_at)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 2)), max_size=150))
def test_keyed_buckets_equal_single_ones_while_there_is_room(uses: list[tuple[int, float]]) -> None:
    clock = Clock()
    keyed = KeyedBuckets(2, 3, clock, max_keys=7)
    single = {i: TokenBucket(2, 3, clock.now) for i in range(7)}
    for key, pause in uses:
        clock.advance(pause)
        assert keyed.take(str(key)) == single[key].take(clock.now)
