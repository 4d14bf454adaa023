"""Which model a request is for, by a field of its JSON body."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

#: The longest name of a model that is told apart.
LONGEST: Final = 128
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_NAME: Final = re.compile(r"[\x21-\x7e]+")
_VALUE: Final = json.JSONDecoder()


def field_of(body: bytes, name: str) -> str:
    """Return the text that the object has under that name; empty: none. The rest of a body may be missing, and what
    stands behind the field is not looked at. Of two of that name, the first one counts."""
    text = body.decode("utf-8", "replace")
    try:
        at = _skip(text, 0)
        if text[at] != "{":
            return ""
        at = _skip(text, at + 1)
        while text[at] == '"':
            found, at = scanstring(text, at + 1)
            at = _skip(text, at)
            if text[at] != ":":
                return ""
            value: Any
            value, at = _VALUE.raw_decode(text, _skip(text, at + 1))
            if found == name:
                return fit(value) if isinstance(value, str) else ""
            at = _skip(text, at)
            if text[at] != ",":
                return ""
            at = _skip(text, at + 1)
    except (ValueError, IndexError, RecursionError):
        pass
    return ""


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found is not None else at


def fit(name: str) -> str:
    """Return the name of a model, if it is one that can be shown; else nothing."""
    return name if len(name) <= LONGEST and _NAME.fullmatch(name) else ""
