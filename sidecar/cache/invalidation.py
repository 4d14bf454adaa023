"""What a request is for, and what an unsafe one has changed (RFC 9111 §2, §4.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from sidecar.cache.fields import values

_PLACES: Final = (b"location", b"content-location")
#: What changes nothing (RFC 9110 §9.2.1).
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"})
#: What is asked for by its target, over http and https, and by a body: each is kept by itself.
_BY_TARGET: Final = (b"http ", b"https ")
_BY_BODY: Final = (b"http+body ", b"https+body ")
#: Changes that are remembered, and the bytes by which each is.
MOST_CHANGES: Final = 40_000
_DIGEST: Final = 16


def resource_key(host: bytes, target: bytes, secure: bool = False, by_body: bool = False) -> bytes:
    """What all requests for one resource have in common: a URI is one with its scheme (RFC 9111 §2), and host names
    know no case."""
    return (_BY_BODY if by_body else _BY_TARGET)[secure] + host.lower() + b" " + target


def changes(method: str, status: int) -> bool:
    """Whether a request with such an answer may have changed something."""
    return method not in SAFE and 200 <= status < 400


class Changes:
    """Which resources were changed, and when; ``most`` are remembered. ``number`` is how many changes there were."""

    __slots__ = ("_forgotten", "_last", "_most", "number")

    def __init__(self, most: int = MOST_CHANGES) -> None:
        self._most = most
        self.number = 0
        #: A resource's digest → the number of its last change, in the order of those.
        self._last: OrderedDict[bytes, int] = OrderedDict()
        #: The last change that is not remembered any more.
        self._forgotten = 0

    def since(self, key: bytes, number: int) -> bool:
        """Whether that resource has changed since there were so many changes, or may have: too many came later."""
        return self._forgotten > number or self._last.get(digest_of(key), 0) > number

    def note(self, host: bytes, target: bytes, answer: bytes, bodies: bool) -> set[bytes]:
        """There was one, by a request for that target with such an answer; the keys of all that it has changed,
        whatever the scheme. ``bodies``: also of what is asked for by its body."""
        self.number += 1
        kinds = (*_BY_TARGET, *_BY_BODY) if bodies else _BY_TARGET
        keys = {kind + place for place in touched(host, target, answer) for kind in kinds}
        last = self._last
        for key in keys:
            it = digest_of(key)
            last[it] = self.number
            last.move_to_end(it)
        while len(last) > self._most:
            self._forgotten = last.popitem(last=False)[1]
        return keys


class Caches:
    """All caches of one listener, as ``all`` has them now: what is changed by way of one route is changed for each.
    What is under way goes by those that there are when it has its answer, not by those when it came."""

    __slots__ = ("all", "changes")

    def __init__(self, caches: tuple[Any, ...] = ()) -> None:
        self.all = caches
        self.changes = Changes()

    def forget(self, host: bytes, target: bytes, answer: bytes, bodies: bool = True) -> None:
        """Forget everywhere what an unsafe request has changed (RFC 9111 §4.4); see :meth:`Changes.note`."""
        keys = self.changes.note(host, target, answer, bodies)
        for cache in self.all:
            cache.forget(keys)


def digest_of(key: bytes) -> bytes:
    """What is remembered in place of a key, as a target may be long."""
    return blake2b(key, digest_size=_DIGEST).digest()


def touched(host: bytes, target: bytes, answer: bytes) -> Iterator[bytes]:
    """The resources (host and target) that a request has changed that got the answer with that head: its own, and
    those of the same host that ``Location`` and ``Content-Location`` name."""
    yield host.lower() + b" " + target
    for name in _PLACES:
        for value in values(answer, name)[:1]:  # there is to be one of each
            place = _same_host(host, target, value)
            if place is not None:
                yield host.lower() + b" " + place


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
