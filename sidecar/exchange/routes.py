"""Finds the route of a request: compiled once, matched in about a microsecond.

A path can be written in many ways. Routes see the normal one, and the request goes on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sidecar.endpoints.cluster import Cluster
    from sidecar.exchange.filter import Chain
    from sidecar.exchange.message import RequestHead

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
#: A percent sign. To look for a byte is quick; for bytes, the interpreter first makes an exception.
_ESCAPED: Final = 0x25
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

Predicate = Callable[[bytes], object]


class Route:
    """What a request gets: the chain that it runs through, and the cluster that it goes to."""

    __slots__ = ("chain", "cluster")

    def __init__(self, chain: Chain, cluster: Cluster) -> None:
        self.chain = chain
        self.cluster = cluster


class Match(Protocol):
    """What a request must have to get a route: a path and fields that match globs, and one of the methods, if any."""

    @property
    def path(self) -> str: ...

    @property
    def methods(self) -> Sequence[str]: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


def glob(pattern: str) -> Predicate:
    """A function that says whether bytes match a glob (``*`` any run, ``?`` one, nothing else is special). The two
    common shapes, a literal and a literal with a star at its end, need no regular expression."""
    raw = pattern.encode()
    if b"*" not in raw and b"?" not in raw:
        return raw.__eq__
    if raw.endswith(b"*") and b"*" not in raw[:-1] and b"?" not in raw:
        prefix = raw[:-1]
        return lambda value: value.startswith(prefix)
    # Between two stars the earliest place is as good as any later one, so each part is an atomic group: nothing is
    # tried twice, and a target made for it cannot make matching slow.
    first, *others = [re.escape(part).replace(rb"\?", rb".") for part in re.split(rb"\*+", raw)]
    last = rb".*" + others.pop() if others else b""
    middle = b"".join(rb"(?>.*?%b)" % part for part in others)
    return re.compile(first + middle + last, re.DOTALL).fullmatch


def normal(path: bytes) -> bytes:
    """The same path in the form that routes see (RFC 3986 §6.2.2): unreserved characters as they are, other escapes in
    upper case, and no dot segments. A slash that is escaped stays so: it separates nothing."""
    if b"%" in path:
        path = _ESCAPE.sub(_unescaped, path)
    if b"/." in path and path.startswith(b"/"):
        path = _without_dots(path)
    return path


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = int(escape[1], 16)
    return bytes((code,)) if code in _UNRESERVED else escape[0].upper()


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 §5.2.4."""
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


#: What a match comes to: its glob of the path (``None``: any), its methods, its globs of fields.
Compiled = tuple[Predicate | None, frozenset[str], tuple[tuple[bytes, Predicate], ...]]


def compiled(match: Match) -> Compiled:
    """The parts of a match, made to be asked often."""
    return (
        None if match.path == "*" else glob(_ESCAPE.sub(_unescaped, match.path.encode()).decode()),
        frozenset(match.methods),
        tuple((name.encode(), glob(value)) for name, value in match.headers.items()),
    )


def matcher(match: Match) -> Callable[[RequestHead], bool]:
    """A function that says whether a request matches, as for a route."""
    on_path, methods, headers = compiled(match)

    def matches(head: RequestHead) -> bool:
        if (on_path is not None and not on_path(normal(head.path))) or (methods and head.method not in methods):
            return False
        for name, on_value in headers:
            value = head.get(name)
            if value is None or not on_value(value):
                return False
        return True

    return matches


class Routes:
    """Routes in their order; the first match wins. What is asked for below the path ``ours`` is the sidecar's own,
    however it goes on: it has a route, and no other one gets it."""

    def __init__(self, routes: Sequence[tuple[Match, Route]], ours: str = "") -> None:
        self._ours = ours.encode()
        self._routes = tuple((*compiled(match), route) for match, route in routes)

    def candidates(self, head: RequestHead) -> list[Route]:
        """Those that match but for the fields that they want, in their order."""
        path = normal(head.path)
        return [
            route for on_path, methods, _, route in self._routes
            if (on_path is None or on_path(path)) and (not methods or head.method in methods)
        ]  # fmt: skip

    def match(self, head: RequestHead) -> Route | None:
        """The first route that matches."""
        path = head.path
        if (_ESCAPED in path or path.find(b"/.") >= 0) and not (self._ours and path.startswith(self._ours)):
            path = normal(path)
        method = head.method
        for on_path, methods, headers, route in self._routes:
            if (on_path is None or on_path(path)) and (not methods or method in methods):
                for name, on_value in headers:
                    value = head.get(name)
                    if value is None or not on_value(value):
                        break
                else:
                    return route
        return None
