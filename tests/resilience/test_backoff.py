from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience.backoff import MAX_RETRY_AFTER, Backoff, parse_retry_after

#: Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


def delays(kind: str, attempts: range, initial: float = 1.0, longest: float = 30.0) -> list[float]:
    backoff = Backoff(initial, longest, Random(1), kind, jitter=False)
    return [backoff.delay(n) for n in attempts]


def test_shapes() -> None:
    assert delays("exponential", range(1, 8)) == [1, 2, 4, 8, 16, 30, 30]
    assert delays("exponential", range(1, 4), 0.25) == [0.25, 0.5, 1]
    assert delays("linear", range(1, 5), 10.0) == [10, 20, 30, 30]
    assert delays("constant", range(1, 4), 2.0) == [2, 2, 2]
    assert delays("constant", range(1, 2), 50.0) == [30]
    assert delays("exponential", range(-1, 2)) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["exponential", "linear", "constant"])
@pytest.mark.parametrize("attempt", [64, 10_000, 10**400])
def test_big_attempts_do_not_overflow(kind: str, attempt: int) -> None:
    backoff = Backoff(1.0, 30.0, Random(1), kind)
    assert 0 <= backoff.delay(attempt) <= 30


@given(attempt=st.integers(1, 100), seed=st.integers(0, 1000), initial=st.floats(0, 100), longest=st.floats(0, 100))
def test_jitter_stays_between_nothing_and_the_plain_delay(
    attempt: int, seed: int, initial: float, longest: float
) -> None:
    [plain] = delays("exponential", range(attempt, attempt + 1), initial, longest)
    assert 0 <= Backoff(initial, longest, Random(seed)).delay(attempt) <= plain <= longest


def test_jitter_is_full() -> None:
    backoff = Backoff(1.0, 30.0, Random(7))
    drawn = [backoff.delay(3) for _ in range(2000)]
    assert min(drawn) < 0.1
    assert max(drawn) > 3.9
    assert sum(drawn) / len(drawn) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120),
        (b" 7\t", 7),
        (b"0", 0),
        (b"0000000000000003", 3),
        (b"999999999", MAX_RETRY_AFTER),
        (b"9" * 10_000, MAX_RETRY_AFTER),
        (b"0" * 10_000, 0),
        (b"Sun, 06 Nov 1994 08:50:37 GMT", 60),
        (b"Sunday, 06-Nov-94 08:50:37 GMT", 60),
        (b"Sun Nov  6 08:50:37 1994", 60),
        (b"Sun Nov 06 08:50:37 1994", 60),
        (b"Sun, 06 Nov 1994 08:49:36 GMT", 0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Sun, 06 Nov 1994 08:49:60 GMT", 22),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        (b"Sunday, 06-Nov-44 08:50:37 GMT", MAX_RETRY_AFTER),
        (b"Monday, 06-Nov-45 08:50:37 GMT", 0),
    ],
)
def test_retry_after(value: bytes, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_a_two_digit_year_is_the_nearest_that_makes_sense() -> None:
    in_1999 = datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC).timestamp()
    assert parse_retry_after(b"Saturday, 01-Jan-00 00:00:00 GMT", in_1999) == 60
    in_2026 = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert parse_retry_after(b"Thursday, 01-Jan-26 00:00:30 GMT", in_2026) == 30
    assert parse_retry_after(b"Sunday, 06-Nov-94 08:50:37 GMT", in_2026) == 0


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_the_time_zone_of_this_host_does_not_matter() -> None:
    assert parse_retry_after(b"Sun, 06 Nov 1994 08:50:37 GMT", NOW) == 60
    in_1999 = datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC).timestamp()
    assert parse_retry_after(b"Saturday, 01-Jan-50 00:00:00 GMT", in_1999) == 0, "1950: 51 years ahead is too far"


@pytest.mark.parametrize(
    "value",
    [
        b"", b"soon", b"\x0b7", b"7\r", b"X7", b"-1", b"+1", b"1.5", b"1e3", b"12 34", b"\xb2", b"1,2",
        b"Sun, 31 Feb 1994 08:49:37 GMT", b"Sun, 06 Nov 1994 25:49:37 GMT", b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT", b"Sun, 06 Nov 1994 08:49:37 CET", b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 nov 1994 08:49:37 GMT", b"x" * 100_000,
    ],
)  # fmt: skip
def test_garbage_is_none(value: bytes) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.binary(max_size=60))
def test_anything_gives_none_or_a_bounded_number(value: bytes) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@given(st.integers(0, 4_000_000_000))
def test_dates_as_others_write_them(when: int) -> None:
    value = formatdate(when, usegmt=True).encode()
    assert parse_retry_after(value, NOW) == min(max(when - NOW, 0.0), MAX_RETRY_AFTER)
