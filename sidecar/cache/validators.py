"""Whether an answer is still the same: conditions of requests (RFC 9110 §13), what a 304 is about (RFC 9111 §4.3)."""

from __future__ import annotations

import re
from typing import Final

from sidecar.cache import dates
from sidecar.cache.fields import values

#: An entity tag, or ``*``.
_TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"|\*')


def tags(value: bytes) -> list[bytes]:
    """The entity tags of a list, each without its mark of weakness: that is how they are compared here (RFC 9110
    §8.8.3.2, §13.1.2)."""
    return [it.removeprefix(b"W/") for it in _TAG.findall(value)]


def unmodified(raw: bytes, etag: bytes, modified: bytes, now: float = 0.0) -> bool:
    """Whether the request with that head has the answer with these validators (empty: it has none): by its
    ``If-None-Match``, or, where it has none of those, by its ``If-Modified-Since`` (RFC 9110 §13.2.2)."""
    wanted = values(raw, b"if-none-match")
    if wanted:
        given = tags(b",".join(wanted))
        return b"*" in given or (bool(etag) and etag.removeprefix(b"W/") in given)
    since = values(raw, b"if-modified-since")
    if len(since) != 1 or not modified:
        return False
    if since[0] == modified:
        return True
    asked, has = dates.read(since[0], now), dates.read(modified, now)
    return asked is not None and has is not None and has <= asked


def confirms(etag: bytes, modified: bytes, new_etag: bytes, new_modified: bytes) -> bool:
    """Whether a 304 with the new validators (empty: it has none) is about the answer with the old ones (RFC 9111
    §4.3.4)."""
    if new_etag and etag:
        return etag.removeprefix(b"W/") == new_etag.removeprefix(b"W/")
    return not (new_modified and modified and not etag) or new_modified == modified
