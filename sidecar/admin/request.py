"""A request to the admin API as its handlers see it: what was asked, and a small body that comes in beside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED
from sidecar.http.h1.head import parse_request

#: What a head may have: bytes, lines, bytes of the target.
LIMITS: Final = Limits(head=16384, headers=100, target=8192)
#: Names and values behind the question mark, at most.
_MOST_IN_QUERY: Final = 100

_T = TypeVar("_T")


class TooLarge(Exception):
    """The body has more bytes than it may have."""


class Fields:
    """Header fields, in their order; names in any case."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Sequence[tuple[str, str]]) -> None:
        self._lines = [(name.lower(), value) for name, value in lines]

    def getall(self, name: str) -> list[str]:
        """Return every value that the field has."""
        name = name.lower()
        return [value for each, value in self._lines if each == name]

    def get(self, name: str, default: _T) -> str | _T:
        """Return the field's first value."""
        found = self.getall(name)
        return found[0] if found else default


class Request:
    """One request. ``parts`` are the pieces of its path between slashes, decoded; ``path`` is all of it, decoded;
    ``keep_alive`` says that its client may send another one on the same connection, ``chunks`` that it understands
    them, ``waits`` that it sends no body before it is told to. ``most`` is how large its body may be."""

    def __init__(self, raw: bytes, client: str | None) -> None:
        """Parse a whole head. Raises :class:`ProtocolError`."""
        head = parse_request(raw, LIMITS)
        if not head.target.isascii():
            raise ProtocolError("a byte in the target that is no ASCII: it has to be written with %")
        path, _, query = head.target.decode("ascii").partition("?")
        self.method = head.method
        self.parts = tuple(map(unquote, path.split("/")[1:]))
        self.path = "/" + "/".join(self.parts) if path.startswith("/") else path
        try:
            self.query = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_IN_QUERY)
        except ValueError:
            raise ProtocolError(f"the query has more than {_MOST_IN_QUERY} fields") from None
        # Not what goes on to the next hop: that has none of the fields that only a sidecar understands.
        lines = (line.partition(b":") for line in raw.strip(b"\r\n").split(b"\r\n")[1:])
        self.headers = Fields([(_text(name), _text(value.strip(b" \t"))) for name, _, value in lines])
        self.client = client
        self.keep_alive = head.keep_alive
        self.chunks = head.version == 1
        self.waits = head.expects_continue
        self.length = max(head.length, 0)
        self.most = 0
        self._chunked = head.length == CHUNKED
        self._body = Body(head.length, decode=self._chunked)
        self._data = bytearray()
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all of its body has come in."""
        return self._body.done

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body, and return those behind it. What is too many is not kept."""
        if self.complete:
            return data
        if self._failure is not None:
            return b""
        try:
            used = self._body.feed(data)
        except ProtocolError as error:
            self.fail(error)
            return b""
        self._data += self._body.decoded() if self._chunked else data[:used]
        if len(self._data) > self.most:
            self._data.clear()
            self.fail(TooLarge())
            return b""
        if self._body.done:
            self._wake()
        return data[used:]

    def fail(self, why: Exception) -> None:
        """The rest of the body is of no use, or never comes."""
        self._failure = self._failure or why
        self._wake()

    async def read(self) -> bytes:
        """Wait for the whole body. Raises :class:`TooLarge`, :class:`ProtocolError`, or :class:`ConnectionError` when
        the client leaves."""
        if not self._body.done and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._read()

    def _read(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        return bytes(self._data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
