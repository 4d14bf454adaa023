"""Dates as HTTP writes them (RFC 9110 §5.6.7): the usual form, and the two that were allowed before."""

from __future__ import annotations

import re
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}  # fmt: skip
_TIME: Final = rb"(\d\d):(\d\d):(\d\d)"
#: ``Sun, 06 Nov 1994 08:49:37 GMT``
_USUAL: Final = re.compile(rb"[a-z]{3}, (\d\d) ([a-z]{3}) (\d{4}) " + _TIME + rb" gmt")
#: ``Sunday, 06-Nov-94 08:49:37 GMT``
_RFC850: Final = re.compile(rb"[a-z]{6,9}, (\d\d)-([a-z]{3})-(\d\d) " + _TIME + rb" gmt")
#: ``Sun Nov  6 08:49:37 1994``
_ASCTIME: Final = re.compile(rb"[a-z]{3} ([a-z]{3}) ([ \d]\d) " + _TIME + rb" (\d{4})")


def read(value: bytes, now: float = 0.0) -> float | None:
    """Unix time; ``None``: it is no date. ``now`` tells the century of a year of two digits: what would be more than
    50 years ahead of it is past."""
    value = value.lower()
    found = _USUAL.fullmatch(value)
    if found is not None:
        day, month, year, *rest = found.groups()
        return _unix(int(year), month, day, rest)
    found = _RFC850.fullmatch(value)
    if found is not None:
        day, month, short, *rest = found.groups()
        this = 1970 + int(now / 31556952)
        full = this - this % 100 + int(short)
        if full > this + 50:
            full -= 100
        return _unix(full, month, day, rest)
    found = _ASCTIME.fullmatch(value)
    if found is not None:
        month, day, hour, minute, second, year = found.groups()
        return _unix(int(year), month, day.strip(), [hour, minute, second])
    return None


def _unix(year: int, month: bytes, day: bytes, time: list[bytes]) -> float | None:
    number = _MONTHS.get(month)
    hour, minute, second = map(int, time)
    if number is None or year < 1 or not 1 <= int(day) <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    from calendar import timegm  # for the cache alone, and with what prints calendars

    return float(timegm((year, number, int(day), hour, minute, second)))
