"""How long to wait before trying again: what we choose ourselves, and what a server asks for."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from random import Random
from typing import Final

#: The longest wait that ``Retry-After`` can ask for, seconds (a day).
MAX_RETRY_AFTER: Final = 86_400.0

#: Beyond this attempt delays grow no further (every sensible ``max_delay`` is reached long before), so that neither a
#: power nor a product can overflow.
_LAST_STEP: Final = 64


class Backoff:
    """Delays between tries, seconds: ``initial`` before the first retry, never more than ``longest``. ``kind`` says how
    they grow: ``exponential`` (each is twice the one before), ``linear`` or ``constant``.

    With ``jitter`` each is drawn evenly from 0 up to the delay ("full jitter", Marc Brooker, "Exponential Backoff and
    Jitter", AWS Architecture Blog, 2015): callers that failed together do not come back together.
    """

    __slots__ = ("_initial", "_jitter", "_max", "_random", "_type")

    def __init__(
        self, initial: float, longest: float, rng: Random, kind: str = "exponential", jitter: bool = True
    ) -> None:
        self._type = kind
        self._initial = initial
        self._max = longest
        self._jitter = jitter
        self._random = rng.random

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait before retry number ``attempt``; 1 is the first retry."""
        step = min(max(attempt, 1), _LAST_STEP)
        delay = self._initial
        if self._type == "exponential":
            delay *= 1 << (step - 1)
        elif self._type == "linear":
            delay *= step
        if delay > self._max:
            delay = self._max
        return delay * self._random() if self._jitter else delay


_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")

# RFC 9110 §5.6.7: the form that is sent today, and the two obsolete ones that must still be understood.
_CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_DATES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) " + _CLOCK + rb" GMT",
        rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-" + _MONTH + rb"-(?P<year>\d\d) " + _CLOCK
        + rb" GMT",
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) " + _MONTH + rb" (?P<day>[ \d]\d) " + _CLOCK + rb" (?P<year>\d{4})",
    )
)  # fmt: skip


def parse_retry_after(value: bytes, now_wall: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110 §10.2.3: seconds or an HTTP date): 0 for a
    date gone by, at most :data:`MAX_RETRY_AFTER`, None for a value that is neither. ``now_wall`` is Unix time."""
    value = value.strip(b" \t")
    if value.isdigit():
        # The length first: turning a number of thousands of digits into an int is slow, then refused.
        digits = value.lstrip(b"0")
        return MAX_RETRY_AFTER if len(digits) > 6 else min(float(digits or b"0"), MAX_RETRY_AFTER)
    for pattern in _DATES:
        match = pattern.fullmatch(value)
        if match is not None:
            when = _timestamp(match, now_wall)
            return None if when is None else min(max(when - now_wall, 0.0), MAX_RETRY_AFTER)
    return None


def _timestamp(date: re.Match[bytes], now_wall: float) -> float | None:
    """Return the Unix time of a matched date; None when there is no such day or hour."""
    year = int(date["year"])
    if len(date["year"]) == 2:
        # RFC 9110 §5.6.7: a two-digit year that seems more than 50 years ahead is in the past.
        latest = datetime.fromtimestamp(now_wall, UTC).year + 50
        year = latest - (latest - year) % 100
    try:
        # A leap second (60) is counted as the second before it.
        second = min(int(date["second"]), 59) if date["second"] <= b"60" else 60
        return datetime(
            year, _MONTHS.index(date["month"]) + 1, int(date["day"]), int(date["hour"]), int(date["minute"]), second,
            tzinfo=UTC,
        ).timestamp()  # fmt: skip
    except ValueError:
        return None
