"""What of a request decides where it goes, where that is decided by a hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar.exchange.routes import normal

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.request import Request


def hash_key(by: str) -> Callable[[Any], str] | None:
    """A function that finds the key of a request: by its ``path``, ``header:<name>``, ``cookie:<name>`` or
    ``query:<name>``. The key is empty where there is no such thing. None for ``ip``: that every exchange has."""
    kind, _, name = by.partition(":")
    if kind == "header":
        return _ByHeader(name).key
    if kind == "cookie":
        return _ByCookie(name).key
    if kind == "query":
        return _ByQuery(name).key
    return by_path if kind == "path" else None


def by_ip(x: Exchange) -> str:
    """The client's address."""
    return x.client_ip


def by_path(x: Request) -> str:
    """The path as routes see it: however it is written, it is one key."""
    return normal(x.head.path).decode("latin-1")


class _ByHeader:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.lower().encode()

    def key(self, x: Request) -> str:
        value = x.head.get(self._name)
        return value.decode("latin-1") if value else ""


class _ByCookie:
    """RFC 6265 §4.2.1: pairs, with ``; `` between them."""

    __slots__ = ("_begin",)

    def __init__(self, name: str) -> None:
        self._begin = name.encode() + b"="

    def key(self, x: Request) -> str:
        cookies = x.head.get(b"cookie")
        if cookies:
            for pair in cookies.split(b";"):
                cookie = pair.strip(b" \t")
                if cookie.startswith(self._begin):
                    return cookie[len(self._begin) :].decode("latin-1")
        return ""


class _ByQuery:
    """As it is written: ``a%20b`` and ``a+b`` are two keys."""

    __slots__ = ("_begin",)

    def __init__(self, name: str) -> None:
        self._begin = name.encode() + b"="

    def key(self, x: Request) -> str:
        for pair in x.head.target.partition(b"?")[2].split(b"&"):
            if pair.startswith(self._begin):
                return pair[len(self._begin) :].decode("latin-1")
        return ""
