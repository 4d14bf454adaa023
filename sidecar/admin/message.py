"""What the admin API is asked, what it answers, and the head of that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from sidecar.core.operations import Stream
from sidecar.http.h1.head import RequestBlock

if TYPE_CHECKING:
    from sidecar.admin.connection import Connection

_ALWAYS: Final = (
    "Server: sidecar\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, of ``body`` or of a ``stream``, which has its media type itself. ``close``: it is the last one."""

    status: int
    media: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    close: bool = False


class Unreadable(Exception):
    """The body cannot be had; ``status``, ``code`` and the text are the answer's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Gone(Exception):
    """Nobody is there any more."""


class Request:
    """A request. ``parts`` are those of its path, decoded, and ``path`` the whole; ``query`` is as it came."""

    __slots__ = ("_head", "_raw", "connection", "method", "parts", "path", "query")

    def __init__(self, connection: Connection, head: RequestBlock, raw: bytes) -> None:
        target, _, self.query = head.target.decode("utf-8", "replace").partition("?")
        self.connection = connection
        self.method = head.method
        self.path = unquote(target)
        self.parts = tuple(unquote(part) for part in target.split("/")[1:])
        self._head = head
        self._raw = raw

    @property
    def length(self) -> int:
        """The length of the body as far as it was said."""
        return max(self._head.length, 0)

    def field(self, name: str) -> str | None:
        """The first field of that name, which is lower case. There is one Host at most."""
        raw = self._raw  # what the parser hands on lacks fields that only sidecars may send, the token among them
        if name == "host":
            found = self._head.fields.get(b"host")
        else:
            begin = b"\r\n" + name.encode() + b":"
            at = raw.lower().find(begin)
            found = raw[at + len(begin) : raw.index(b"\r\n", at + 2)] if at >= 0 else None
        return None if found is None else found.strip(b" \t").decode("utf-8", "surrogateescape")


def connection_lines(keep: bool, version: int) -> list[str]:
    """What HTTP of that version does not do by itself."""
    if keep:
        return [] if version else ["Connection: keep-alive"]
    return ["Connection: close"] if version else []


def render_head(reply: Reply, version: int, lines: list[str]) -> bytes:
    """An answer's head. Names and values of ``headers`` are this program's own."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    given = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    more = "".join(f"{line}\r\n" for line in lines)
    status = f"{reply.status} {HTTPStatus(reply.status).phrase}"
    return (
        f"HTTP/1.{version} {status}\r\nContent-Type: {reply.media}\r\nDate: {date}\r\n{_ALWAYS}{given}{more}\r\n"
    ).encode("latin-1")
