"""What another sidecar says of a request, made safe: it may be anything that stands at an address of the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

#: Bounds of what is taken over.
MOST_HOPS: Final = 16
MOST_EVENTS: Final = 200
MOST_KEYS: Final = 24
MOST_ITEMS: Final = 20
MOST_TEXT: Final = 500

#: What is counted on, and what it has to be; another one is left out.
_NUMBERS: Final = ("duration_ms", "status", "attempts", "events_left_out", "connecting_ms")
_TEXTS: Final = ("service", "cause", "setting", "error", "began", "cause_at")
#: What is no list wherever it stands.
_NO_LISTS: Final = frozenset({"at_ms", "what", *_NUMBERS, *_TEXTS})


class BadAnswer(Exception):
    """It is no story; the text says what it is instead."""


def read(data: bytes) -> dict[str, Any]:
    """Its ``hops`` and ``events``: plain, short, with what all others rely on. Raises :class:`BadAnswer`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise BadAnswer("what it answered is no story")
    hops, events = found.get("hops"), found.get("events")
    if not isinstance(hops, list) or not isinstance(events, list):
        raise BadAnswer("what it answered is no story")
    return {
        "hops": [hop for it in hops[:MOST_HOPS] if (hop := _flat(it)) and isinstance(hop.get("service"), str)],
        "events": [event for it in events[:MOST_EVENTS] if (event := _event(it))],
    }


def _event(value: object) -> dict[str, Any]:
    found = _flat(value)
    at = found.get("at_ms")
    if not isinstance(found.get("what"), str) or isinstance(at, bool) or not isinstance(at, int | float):
        return {}
    if isinstance(value, Mapping):
        for key, items in list(value.items())[:MOST_KEYS]:
            if isinstance(items, list) and len(key) <= MOST_TEXT and key not in _NO_LISTS:
                found[key] = [_flat(item) for item in items[:MOST_ITEMS]]
    return found


def _flat(value: object) -> dict[str, Any]:
    """Its keys with plain values; an empty one if it is no object."""
    if not isinstance(value, Mapping):
        return {}
    return {key[:MOST_TEXT]: _plain(it) for key, it in list(value.items())[:MOST_KEYS] if _is_plain(key, it)}


def _is_plain(key: str, value: object) -> bool:
    if key in _TEXTS and not isinstance(value, str | None):
        return False
    if key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
        return False
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | bool | int)


def _plain(value: object) -> object:
    return value[:MOST_TEXT] if isinstance(value, str) else value
