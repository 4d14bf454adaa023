"""Body framing, sans-I/O: where a message's body ends within the bytes that arrive.

Chunked bodies are checked and passed on, chunk borders and trailers included, so nothing is buffered. Only a size line
changes that has more than a plain size in it: once it is complete it goes on as that, so that nobody behind us has to
understand extensions, zeros in front or white space (RFC 9112 §7.1.1 lets a recipient ignore extensions). An HTTP/1.0
client, which knows no chunks, gets the data taken out (``decode``).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE
from sidecar.http.h1.trailers import check_begun_trailer, check_trailer

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
#: A size of at most 15 digits fits any counter.
_PLAIN: Final = re.compile(rb"(?:[1-9A-Fa-f][0-9A-Fa-f]{0,14}|0)\r\n")
#: To the letter (RFC 9112 §7.1.1), for requests.
_STRICT: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[ \t]*+" + _TOKEN
    + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+)*+\r\n"
)  # fmt: skip
#: Whatever has one reading, for answers: any number of zeros, spaces behind the size, any text as extension.
_LENIENT: Final = re.compile(rb"0*+([0-9A-Fa-f]{0,15})[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
#: The beginning of either.
_BEGUN: Final = re.compile(rb"(?=[0-9A-Fa-f])0*+[0-9A-Fa-f]{0,15}(?:[ \t]++(?:;.*+)?|;.*+)?\r?", re.DOTALL)
_BAD: Final = re.compile(rb"\r.|[\x00-\x08\x0a-\x0c\x0e-\x1f\x7f]", re.DOTALL)
_MAX_SIZE_LINE: Final = 256
_MAX_LENIENT_LINE: Final = 16384
_MAX_TRAILERS: Final = 16384

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class Body:
    """A body of known framing (a Content-Length, ``CHUNKED`` or ``UNTIL_CLOSE``). ``received`` counts data bytes,
    ``done`` says that the last one was seen. ``lenient``: it is an answer's."""

    __slots__ = ("_chunked", "_left", "_until_close", "done", "received")

    def __init__(self, length: int, decode: bool = False, lenient: bool = False) -> None:
        self._chunked = Chunked(decode, lenient) if length == CHUNKED else None
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

    def onward(self, data: bytes, used: int) -> bytes:
        """What goes on of the data just fed, of which :meth:`feed` has used so much."""
        if self._chunked is not None:
            return self._chunked.onward(data, used)
        return data if used == len(data) else data[:used]

    def decoded(self) -> bytes:
        """The data of the chunks fed since the last call (with ``decode`` only)."""
        assert self._chunked is not None
        return self._chunked.decoded()

    @property
    def between(self) -> bool:
        """Whether no chunk has begun that has not ended; without chunks, always."""
        return self._chunked is None or self._chunked.between

    def closed(self) -> bool:
        """The sender closed: whether that is this body's proper end."""
        if self._until_close:
            self.done = True
        return self.done


class Chunked:
    """The chunked transfer coding (RFC 9112 §7.1): no bare CR or LF, bounded lines."""

    __slots__ = ("_changed", "_decode", "_left", "_lenient", "_line", "_pieces", "_since", "_state", "done", "received")

    def __init__(self, decode: bool = False, lenient: bool = False) -> None:
        self._state = _SIZE
        self._line = b""  # the part of a line that has arrived
        self._left = 0  # of the chunk; in the trailer section, how much of that was seen
        self._decode = decode
        self._lenient = lenient
        #: The decoded data; or what goes on, if something was ``_changed``, up to the byte ``_since`` of what is fed.
        self._pieces: list[bytes] = []
        self._changed = False
        self._since = 0
        self.received = 0
        self.done = False

    @property
    def between(self) -> bool:
        """As :attr:`Body.between`."""
        return self._state == _SIZE and not self._line

    def feed(self, data: bytes) -> int:
        """As :meth:`Body.feed`."""
        at = self._since = 0
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

    def onward(self, data: bytes, used: int) -> bytes:
        """As :meth:`Body.onward`."""
        if not self._changed:
            return data if used == len(data) else data[:used]
        self._changed = False
        self._pieces.append(data[self._since : used])
        return self.decoded()

    def decoded(self) -> bytes:
        """As :meth:`Body.decoded`."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _size_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1
        stop = end or len(data)
        before = self._line
        line = data[at:stop]
        if end and not before and _PLAIN.fullmatch(line):
            self._begin_chunk(int(line, 16))
            return stop
        line = before + line
        if len(line) > (_MAX_LENIENT_LINE if self._lenient else _MAX_SIZE_LINE):
            raise ProtocolError("a chunk's size line is too long")
        if not end:
            # It does not go on before it is complete. Of what came earlier only the beginning is looked at again.
            if not _BEGUN.fullmatch(line[:_MAX_SIZE_LINE]) or _BAD.search(line, max(0, len(before) - 1)):
                raise ProtocolError("a chunk's size is malformed")
            self._line = line
            self._replace(data, at, stop, b"")
            return stop
        self._line = b""
        found = (_LENIENT if self._lenient else _STRICT).fullmatch(line)
        if found is None or line[0] not in b"0123456789ABCDEFabcdef":
            raise ProtocolError("a chunk's size is malformed")
        size = int(found[1] or b"0", 16)
        self._replace(data, at, stop, b"%x\r\n" % size)
        self._begin_chunk(size)
        return stop

    def _begin_chunk(self, size: int) -> None:
        self._left = size
        self._state = _DATA if size else _TRAILER

    def _replace(self, data: bytes, begin: int, end: int, instead: bytes) -> None:
        """Of what is fed, let something else go on in this place."""
        if not self._decode:
            self._changed = True
            self._pieces.append(data[self._since : begin] + instead)
            self._since = end

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
