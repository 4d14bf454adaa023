"""Body framing, sans-I/O: where a message's body ends within the bytes that arrive.

Chunked bodies are checked and passed on as they are, chunk borders and trailers included, so nothing is buffered and
nothing is re-framed. Only an HTTP/1.0 client, which knows no chunks, gets the data taken out (``decode``).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.proxy.errors import ProtocolError
from sidecar.proxy.http1.head import CHUNKED, UNTIL_CLOSE, check_begun_trailer, check_trailer

#: A size of at most 15 digits fits any counter. Extensions pass, in visible ASCII; nobody may lean on them.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*+)?")
_MAX_SIZE_LINE: Final = 256
_MAX_TRAILERS: Final = 16384

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class Body:
    """A body of known framing (a Content-Length, ``CHUNKED`` or ``UNTIL_CLOSE``). ``received`` counts data bytes,
    ``done`` says that the last one was seen."""

    __slots__ = ("_chunked", "_left", "_until_close", "done", "received")

    def __init__(self, length: int, decode: bool = False) -> None:
        self._chunked = Chunked(decode) if length == CHUNKED else None
        self._until_close = length == UNTIL_CLOSE
        self._left = length
        self.received = 0
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the body. Raises :class:`ProtocolError` on bad chunks."""
        if self._chunked is not None:
            used = self._chunked.feed(data)
            self.received = self._chunked.received
            self.done = self._chunked.done
            return used
        size = len(data)
        if self._until_close:
            self.received += size
            return size
        if size < self._left:
            self._left -= size
            self.received += size
            return size
        size = self._left
        self._left = 0
        self.received += size
        self.done = True
        return size

    def decoded(self) -> bytes:
        """The data of the chunks fed since the last call (with ``decode`` only)."""
        assert self._chunked is not None
        return self._chunked.decoded()

    def closed(self) -> bool:
        """The sender closed: whether that is this body's proper end."""
        if self._until_close:
            self.done = True
        return self.done


class Chunked:
    """The chunked transfer coding (RFC 9112 §7.1), checked strictly: no spaces, no bare CR or LF, bounded lines."""

    __slots__ = ("_decode", "_left", "_line", "_pieces", "_state", "done", "received")

    def __init__(self, decode: bool = False) -> None:
        self._state = _SIZE
        self._line = b""  # the part of a line that has arrived
        self._left = 0  # of the chunk; in the trailer section, how much of that was seen
        self._decode = decode
        self._pieces: list[bytes] = []
        self.received = 0
        self.done = False

    def feed(self, data: bytes) -> int:
        """As :meth:`Body.feed`."""
        at = 0
        size = len(data)
        while at < size and self._state != _DONE:
            if self._state == _DATA:
                step = min(self._left, size - at)
                if self._decode:
                    self._pieces.append(data[at : at + step])
                self._left -= step
                self.received += step
                at += step
                if self._left == 0:
                    self._state = _DATA_END
            elif self._state == _SIZE:
                at = self._size_line(data, at)
            elif self._state == _DATA_END:
                at = self._data_end(data, at)
            else:
                at = self._trailers(data, at)
        return at

    def decoded(self) -> bytes:
        """As :meth:`Body.decoded`."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _size_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        line = self._line + (data[at:] if end < 0 else data[at : end + 1])
        if len(line) > _MAX_SIZE_LINE:
            raise ProtocolError("a chunk's size line is too long")
        if end < 0:
            self._line = line
            if not _SIZE_LINE.fullmatch(line.removesuffix(b"\r")):
                raise ProtocolError("a chunk's size is malformed")
            return len(data)
        self._line = b""
        found = _SIZE_LINE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
        if found is None:
            raise ProtocolError("a chunk's size is malformed")
        self._left = int(found[1], 16)
        self._state = _DATA if self._left else _TRAILER
        return end + 1

    def _data_end(self, data: bytes, at: int) -> int:
        line = self._line + data[at : at + 2 - len(self._line)]
        if not b"\r\n".startswith(line):
            raise ProtocolError("a chunk is longer than its size")
        used = len(line) - len(self._line)
        if len(line) == 2:
            self._line = b""
            self._state = _SIZE
        else:
            self._line = line
        return at + used

    def _trailers(self, data: bytes, at: int) -> int:
        """Go on to the empty line that ends the message; mostly that is the very next one. Each piece is passed on as
        it comes, so each is checked as it comes."""
        end = data.find(b"\n", at)
        stop = end + 1 or len(data)
        line = self._line + data[at:stop]
        self._left += stop - at
        if self._left > _MAX_TRAILERS:
            raise ProtocolError("the trailer section is too large")
        if end < 0:
            check_begun_trailer(line, len(self._line))
            self._line = line
            return stop
        self._line = b""
        if line == b"\r\n":
            self._state = _DONE
            self.done = True
        else:
            check_trailer(line)
        return stop
