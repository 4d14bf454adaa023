"""Redis' protocol as bytes, sans-I/O: RESP version 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).

What a server sends is hostile until parsed: a line, a text, the items and the bytes of a reply and how deep it goes are
bounded, and reading takes time in proportion to what came, whatever pieces it comes in.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

#: Bytes of a line, and of a text; items of all lists of a reply, bytes of one; and how deep lists go.
MAX_LINE: Final = 4096
MAX_TEXT: Final = 65_536
MAX_ITEMS: Final = 65_536
MAX_REPLY: Final = 4 << 20
MAX_DEPTH: Final = 8

_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")


class Malformed(ValueError):
    """What came is not the protocol, or beyond its bounds."""


class ErrorReply:
    """The server refuses a command. ``kind`` is the first word of its text: ``MOVED``, ``NOSCRIPT``, ``ERR``."""

    __slots__ = ("kind", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.kind = text.partition(" ")[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorReply) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"


#: Texts are bytes; lists hold replies; None is a text or a list that there is not.
Reply: TypeAlias = "bytes | int | ErrorReply | list[Reply] | None"


def encode(*words: bytes | str | int) -> bytes:
    """A command: a list of texts."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


class _More:
    """The element that was read is not the end of anything."""


_MORE: Final = _More()


class Reader:
    """Makes replies of bytes as they come."""

    __slots__ = ("_buffer", "_items", "_lists", "_looked", "_size", "_text")

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Up to there no end of a line was found.
        self._looked = 0
        #: Bytes of the text that comes; -1: a line comes.
        self._text = -1
        #: Lists that are not complete, the outermost first, and how many items each is to have.
        self._lists: list[tuple[list[Reply], int]] = []
        #: Of the reply that comes: its items, and its bytes.
        self._items = 0
        self._size = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now. Raises :class:`Malformed`; then nothing more can be read."""
        buffer = self._buffer
        buffer += data
        found: list[Reply] = []
        at = 0
        while True:
            end = self._end(at)
            if not end:
                break
            value: Reply | _More
            if self._text >= 0:
                value, self._text = bytes(buffer[at : end - 2]), -1
            else:
                value = self._line(bytes(buffer[at : end - 2]))
            self._size += end - at
            at = end
            if self._size > MAX_REPLY:
                raise Malformed("a reply is too large")
            if not isinstance(value, _More):
                self._place(value, found)
        del buffer[:at]
        self._looked = max(self._looked - at, 0)
        return found

    def _end(self, at: int) -> int:
        """Where the element that begins there ends, with its line break; 0: not all of it is here."""
        buffer = self._buffer
        if self._text >= 0:
            end = at + self._text + 2
            if len(buffer) < end:
                return 0
            if buffer[end - 2 : end] != b"\r\n":
                raise Malformed("a text does not end where it should")
            return end
        stop = buffer.find(b"\r\n", max(at, self._looked))
        if (stop if stop >= 0 else len(buffer)) - at > MAX_LINE:
            raise Malformed("a line is too long")
        self._looked = 0 if stop >= 0 else max(at, len(buffer) - 1)
        return stop + 2 if stop >= 0 else 0

    def _line(self, line: bytes) -> Reply | _More:
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ErrorReply(rest.decode("utf-8", "replace"))
        if kind not in (b":", b"$", b"*"):
            raise Malformed("a reply of an unknown type")
        if not _NUMBER.fullmatch(rest):
            raise Malformed("a number is none")
        number = int(rest)
        if kind == b":":
            return number
        if number == -1:
            return None
        if kind == b"$":
            if not 0 <= number <= MAX_TEXT:
                raise Malformed("a text is too long")
            self._text = number
            return _MORE
        self._items += max(number, 1)
        if number < 0 or self._items > MAX_ITEMS or len(self._lists) >= MAX_DEPTH:
            raise Malformed("a list is too long or too deep")
        if not number:
            return []
        self._lists.append(([], number))
        return _MORE

    def _place(self, value: Reply, found: list[Reply]) -> None:
        """Put a value where it belongs, and each list that it completes."""
        lists = self._lists
        while lists:
            items, number = lists[-1]
            items.append(value)
            if len(items) < number:
                return
            value = items
            lists.pop()
        found.append(value)
        self._items = self._size = 0
