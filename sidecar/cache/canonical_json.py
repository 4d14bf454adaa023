"""One form for all JSON texts that mean the same (RFC 8259): members sorted, no spaces, strings written in one way.

Numbers stay as they are written: whether ``1`` and ``1.0`` are the same is up to who reads them. A text that two
readers could take for different things has no such form: one with a name twice, a number that is none, or no UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

#: What is deeper than that has no form here.
MOST_DEPTH: Final = 64


class _Number(str):
    """A number, as it was written."""

    __slots__ = ()


class _Refused(ValueError):
    """It could be read in two ways."""


def parse(text: bytes) -> Any:
    """The value; numbers are strings of a class of their own. Raises :class:`ValueError`."""
    try:
        return _DECODER.decode(text.decode("utf-8"))
    except RecursionError:
        raise _Refused("it is too deep") from None


def canonical(value: Any) -> str:
    """The one form of a value from :func:`parse`. Raises :class:`ValueError`."""
    return _written(value, 0)


def number(value: Any) -> float | None:
    """A value from :func:`parse` as a number, if it is one."""
    return float(value) if isinstance(value, _Number) else None


def _written(value: Any, depth: int) -> str:
    if depth > MOST_DEPTH:
        raise _Refused("it is too deep")
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        members = [f"{json.dumps(name)}:{_written(value[name], depth + 1)}" for name in sorted(value)]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_written(it, depth + 1) for it in value]) + "]"
    return json.dumps(value)  # true, false, null


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("a name is there twice")
    return found


def _no_number(text: str) -> Any:
    raise _Refused(f"{text} is no number of JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_Number, parse_int=_Number, parse_constant=_no_number
)
