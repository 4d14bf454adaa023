"""What an operator says who holds a breaker open or closed: who, why, and for how long."""

from __future__ import annotations

import re
from math import inf
from typing import Any, Final, NamedTuple

import orjson

from sidecar.core.operations import Call
from sidecar.core.text import printable

#: The longest name and the longest reason, in characters, and the longest time, seconds: 30 days.
MAX_BY: Final = 80
MAX_REASON: Final = 200
MAX_SECONDS: Final = 30 * 86400.0

_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|m|h|)")


class BadWish(Exception):
    """It cannot be done so; the text says why."""


class Wish(NamedTuple):
    """``seconds`` is inf where nobody has said for how long."""

    by: str
    reason: str
    seconds: float


async def wished(call: Call) -> Wish:
    """Read ``by``, ``reason`` and ``for`` behind the question mark, or in a JSON object as the body; without ``by`` it
    is the client's address. Raises :class:`BadWish`."""
    found: dict[str, Any] = dict(call.query)
    body = (await call.read()).strip()
    if body:
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError:
            given = None
        if not isinstance(given, dict):
            raise BadWish('the body has to be a JSON object: {"by": …, "reason": …, "for": "10m"}')
        found |= given
    unknown = found.keys() - {"by", "reason", "for"}
    if unknown:
        raise BadWish(f"no such key: {printable(min(unknown))!r}; there are by, reason and for")
    seconds = inf
    if found.get("for") not in (None, ""):
        seconds = _seconds(found["for"])
    return Wish(_text(found, "by", MAX_BY) or call.client or "", _text(found, "reason", MAX_REASON), seconds)


def _text(found: dict[str, Any], key: str, limit: int) -> str:
    value = found.get(key) or ""
    if not isinstance(value, str):
        raise BadWish(f"{key} has to be text")
    return printable(value.strip(), limit)


def _seconds(value: Any) -> float:
    match = _DURATION.fullmatch(str(value).strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise BadWish(f"for: {printable(str(value))!r} is no time from 1ms to 720h; write 90s, 10m or 2h")
    return seconds
