"""What a request is for, and what an unsafe one has changed (RFC 9111 §2, §4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urljoin, urlsplit

from sidecar.cache.fields import values

_PLACES: Final = (b"location", b"content-location")
#: What changes nothing (RFC 9110 §9.2.1).
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"})


def resource_key(host: bytes, target: bytes) -> bytes:
    """What all requests for one resource have in common; host names know no case."""
    return host.lower() + b" " + target


def changes(method: str, status: int) -> bool:
    """Whether a request with such an answer may have changed something."""
    return method not in _SAFE and 200 <= status < 400


def touched(host: bytes, target: bytes, answer: bytes) -> Iterator[bytes]:
    """The resources that a request has changed that got the answer with that head: its own, and those of the same host
    that ``Location`` and ``Content-Location`` name."""
    yield resource_key(host, target)
    for name in _PLACES:
        for value in values(answer, name)[:1]:  # there is to be one of each
            place = _same_host(host, target, value)
            if place is not None:
                yield resource_key(host, place)


def _same_host(host: bytes, target: bytes, reference: bytes) -> bytes | None:
    """The target that a reference names, if it is on that host."""
    here = f"http://{host.decode('latin-1').lower()}"
    try:
        found = urlsplit(urljoin(here + target.decode("latin-1"), reference.decode("latin-1")))
    except ValueError:
        return None
    if found.scheme not in ("http", "https") or found.netloc.lower() != here[7:]:
        return None
    query = f"?{found.query}" if found.query else ""
    return f"{found.path or '/'}{query}".encode("latin-1")
