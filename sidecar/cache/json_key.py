"""What makes two requests with a JSON body the same, and whether their answer can be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from sidecar.cache.canonical_json import canonical, number, parse
from sidecar.cache.fields import values

#: Fields of a request that say in which form its answer is wanted. Who answers by a body often does not say that the
#: answer varies by them.
_FORM: Final = (b"accept", b"accept-encoding", b"accept-language", b"content-type")
#: Where names without a dot are looked for, too: Ollama has them there.
_OPTIONS: Final = "options"

Rule = Mapping[str, str | int | float | bool]


def json_key(method: str, raw: bytes, body: bytes, when: Rule) -> bytes | None:
    """What tells such a request from others for the same target; ``None``: it is no JSON of one meaning, or not as the
    rule wants it. ``when``: the values that it must have, by their paths."""
    kind = b",".join(values(raw, b"content-type")).lower().partition(b";")[0].strip(b" \t")
    if not (kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))):
        return None
    if values(raw, b"content-encoding"):
        return None
    try:
        value = parse(body)
        if not all(_has(value, path, wanted) for path, wanted in when.items()):
            return None
        text = canonical(value)
    except ValueError:
        return None
    form = b"\n".join([b",".join(values(raw, name)) for name in _FORM])
    digest = hashlib.sha256(b"%b\0%b\0%b" % (method.encode(), form, text.encode()))
    return digest.digest()


def _has(value: Any, path: str, wanted: str | int | float | bool) -> bool:
    """Whether the value has that one at the path. Where a name may stand in two places, each that is there counts."""
    found = [_at(value, path.split("."))]
    if "." not in path:
        found.append(_at(value, [_OPTIONS, path]))
    there = [it for it in found if it is not _NOTHING]
    return bool(there) and all(_is(it, wanted) for it in there)


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return _NOTHING
        value = value[name]
    return value


def _is(value: Any, wanted: str | int | float | bool) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    if isinstance(wanted, (int, float)):
        return number(value) == wanted
    return number(value) is None and bool(value == wanted)


_NOTHING: Final = object()
