"""Content headers (AMQP 0-9-1 §2.3.5.2, §4.2.6.1): the frame between a publish or delivery and its body.

``type u8 | channel u16 | size u32 | class u16 | weight u16 | body size u64 | flags u16 | properties | 0xCE``

The flags say which properties there are, and they follow in the flags' order without any length of their own, so that
whoever wants one must step over those before it. In all functions ``data`` holds a whole frame from ``start`` (its type
octet) to ``end`` (after its end octet), of which the reader of frames has checked no more than that.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from sidecar.amqp.wire.constants import (
    APP_ID,
    BASIC,
    CLUSTER_ID,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CORRELATION_ID,
    DELIVERY_MODE,
    EXPIRATION,
    HEADERS,
    MESSAGE_ID,
    MORE_FLAGS,
    PRIORITY,
    REPLY_TO,
    SYNTAX_ERROR,
    TIMESTAMP,
    TYPE,
    UNEXPECTED_FRAME,
    USER_ID,
    AmqpError,
)
from sidecar.amqp.wire.tables import find, table_end, value_end

# Offsets in the frame.
_SIZE: Final = 3
_CLASS: Final = 7
#: Of the properties' flags, two octets.
FLAGS: Final = 19
_PROPERTIES: Final = 21
#: The shortest header frame: no properties.
_SHORTEST: Final = 22

#: Class, weight, body size.
_FIXED: Final = Struct(">HHQ")
_pack_u32: Final = Struct(">I").pack
_u32_at: Final = Struct(">I").unpack_from

# The flags' upper byte, where the properties are that the splice has to do with.
_CONTENT_TYPE: Final = CONTENT_TYPE >> 8
_CONTENT_ENCODING: Final = CONTENT_ENCODING >> 8
_HEADERS: Final = HEADERS >> 8

#: Names as they stand in a table, after their lengths.
TRACEPARENT: Final = b"\x0btraceparent"
B3: Final = b"\x02b3"
_STRING: Final = ord("S")


class Properties:
    """A message's properties, None where there is none. ``headers`` is the table as it was sent, with its length;
    ``timestamp`` is seconds since 1970, and ``expiration`` milliseconds in digits, if the client did as it should."""

    __slots__ = (
        "app_id", "cluster_id", "content_encoding", "content_type", "correlation_id", "delivery_mode", "expiration",
        "headers", "message_id", "priority", "reply_to", "timestamp", "type", "user_id",
    )  # fmt: skip

    def __init__(self) -> None:
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self.headers: bytes | None = None
        self.delivery_mode: int | None = None
        self.priority: int | None = None
        self.correlation_id: str | None = None
        self.reply_to: str | None = None
        self.expiration: str | None = None
        self.message_id: str | None = None
        self.timestamp: int | None = None
        self.type: str | None = None
        self.user_id: str | None = None
        self.app_id: str | None = None
        self.cluster_id: str | None = None


def body_size(data: bytes, start: int) -> int:
    """Bytes of the body that follows. Raises :class:`AmqpError`: 502 when the frame is too short for a header, 505 when
    it is one of another class than basic."""
    of_class: int
    body: int
    if data[start + _CLASS - 1] < 14 and data[start + _SIZE : start + _CLASS] < b"\x00\x00\x00\x0e":
        raise _short()
    of_class, _, body = _FIXED.unpack_from(data, start + _CLASS)
    if of_class != BASIC:
        raise AmqpError(UNEXPECTED_FRAME, f"UNEXPECTED_FRAME - a content header of class {of_class}")
    return body


def inject(
    data: bytes,
    start: int,
    end: int,
    entries: bytes,
    limit: int,
    anyway: bool = False,
    instead: bytes = b"",
    contexts: tuple[bytes, ...] = (TRACEPARENT,),
) -> bytes | None:
    """The frame anew, with ``entries`` (as :func:`~sidecar.amqp.wire.tables.table_entry` makes them) at the end of the
    ``headers`` property, or in a new one; but for the two lengths no other byte changes. Entries named ``instead`` (as
    that stands in a table: its length first) at the top of the headers go for them.

    None when it must stay as it is: its headers have one of ``contexts`` (named like ``instead``) at their top already,
    or are no table that could be searched for them (``anyway``: that does not matter); it would be more than ``limit``
    bytes long; or its flags go on in a second word, which no property uses. Raises :class:`AmqpError` (502) when the
    properties before the end of the headers do not fit the frame. Properties after them are the broker's to judge.
    """
    size = end - start
    if size < _SHORTEST:
        raise _short()
    # The end octet: being no more than there, one may look at the byte, and goes too far when the property is missing.
    last = end - 1
    if data[start + FLAGS + 1] & MORE_FLAGS:
        return None
    flags = data[start + FLAGS]
    at = start + _PROPERTIES
    if flags & _CONTENT_TYPE:
        at += 1 + data[at]
    if flags & _CONTENT_ENCODING and at <= last:
        at += 1 + data[at]
    added = len(entries)
    if flags & _HEADERS:
        if at + 4 > last:
            raise _cut_off()
        length: int = _u32_at(data, at)[0]
        after = at + 4 + length
        if after > last:
            raise _cut_off()
        if not anyway:
            for name in contexts:
                if data.find(name, at, after) >= 0 and _has(data, at, after, name[1:]):
                    return None
        kept = data[at + 4 : after]
        if instead and instead in kept:
            kept = _without(data, at, after, instead[1:])
            added -= length - len(kept)
        if size + added > limit:
            return None
        return b"".join(
            [
                data[start : start + _SIZE],
                _pack_u32(size - 8 + added),
                data[start + _CLASS : at],
                _pack_u32(length + added),
                kept,
                entries,
                data[after:end],
            ]
        )
    if at > last:
        raise _cut_off()
    if size + added + 4 > limit:
        return None
    return b"".join(
        [
            data[start : start + _SIZE],
            _pack_u32(size - 4 + added),
            data[start + _CLASS : start + FLAGS],
            bytes((flags | _HEADERS,)),
            data[start + FLAGS + 1 : at],
            _pack_u32(added),
            entries,
            data[at:end],
        ]
    )


def text_header(data: bytes, start: int, end: int, name: bytes) -> bytes | None:
    """The value of the headers' entry of that name (as it stands in a table: its length first) when it is a string,
    None otherwise. Raises :class:`AmqpError` (502) when the properties before the end of the headers do not fit the
    frame."""
    if data.find(name, start, end) < 0 or not data[start + FLAGS] & _HEADERS:
        return None
    last = end - 1
    at = _headers_at(data, start, last)
    after = table_end(data, at, last)
    try:
        tag_at = find(data, at, after, name[1:])
        if tag_at < 0 or data[tag_at] != _STRING:
            return None
        return data[tag_at + 5 : value_end(data, tag_at, after)]
    except AmqpError:
        return None


def priority(data: bytes, start: int, end: int) -> int:
    """The message's priority, 0 when it has none. Raises :class:`AmqpError` (502) when the properties before it do not
    fit the frame."""
    if end - start < _SHORTEST:
        raise _short()
    flags = data[start + FLAGS] << 8
    if not flags & PRIORITY:
        return 0
    last = end - 1
    at = _headers_at(data, start, last)
    if flags & HEADERS:
        at = table_end(data, at, last)
    if flags & DELIVERY_MODE:
        at += 1
    if at >= last:
        raise _cut_off()
    return data[at]


def user_id(data: bytes, start: int, end: int) -> str | None:
    """The ``user-id`` alone; ``None``: there is none, which costs a look at one bit. Raises as :func:`properties`."""
    if end - start < _SHORTEST:
        raise _short()
    return properties(data, start, end).user_id if data[start + FLAGS + 1] & USER_ID else None


def properties(data: bytes, start: int, end: int) -> Properties:
    """All properties. Raises :class:`AmqpError` (502) when they do not fit the frame. Bytes after the last one that is
    known are left alone."""
    if end - start < _SHORTEST:
        raise _short()
    last = end - 1
    at = start + FLAGS
    flags = int.from_bytes(data[at : at + 2], "big")
    more = flags
    at += 2
    while more & MORE_FLAGS:
        if at + 2 > last:
            raise _cut_off()
        more = int.from_bytes(data[at : at + 2], "big")
        at += 2
    found = Properties()
    if flags & CONTENT_TYPE:
        found.content_type = _text(data, at, last)
        at += 1 + data[at]
    if flags & CONTENT_ENCODING:
        found.content_encoding = _text(data, at, last)
        at += 1 + data[at]
    if flags & HEADERS:
        after = table_end(data, at, last)
        found.headers = data[at:after]
        at = after
    if flags & DELIVERY_MODE:
        found.delivery_mode = _number(data, at, 1, last)
        at += 1
    if flags & PRIORITY:
        found.priority = _number(data, at, 1, last)
        at += 1
    if flags & CORRELATION_ID:
        found.correlation_id = _text(data, at, last)
        at += 1 + data[at]
    if flags & REPLY_TO:
        found.reply_to = _text(data, at, last)
        at += 1 + data[at]
    if flags & EXPIRATION:
        found.expiration = _text(data, at, last)
        at += 1 + data[at]
    if flags & MESSAGE_ID:
        found.message_id = _text(data, at, last)
        at += 1 + data[at]
    if flags & TIMESTAMP:
        found.timestamp = _number(data, at, 8, last)
        at += 8
    if flags & TYPE:
        found.type = _text(data, at, last)
        at += 1 + data[at]
    if flags & USER_ID:
        found.user_id = _text(data, at, last)
        at += 1 + data[at]
    if flags & APP_ID:
        found.app_id = _text(data, at, last)
        at += 1 + data[at]
    if flags & CLUSTER_ID:
        found.cluster_id = _text(data, at, last)
    return found


def _headers_at(data: bytes, start: int, last: int) -> int:
    """Where the headers are, or would be; ``last`` is where the end octet is."""
    if last - start < _SHORTEST - 1:
        raise _short()
    flags = data[start + FLAGS]
    at = start + _PROPERTIES
    if data[start + FLAGS + 1] & MORE_FLAGS:
        at += 2
        while at <= last and data[at - 1] & MORE_FLAGS:
            at += 2
    if flags & _CONTENT_TYPE and at <= last:
        at += 1 + data[at]
    if flags & _CONTENT_ENCODING and at <= last:
        at += 1 + data[at]
    if at > last:
        raise _cut_off()
    return at


def _has(data: bytes, at: int, after: int, name: bytes) -> bool:
    """Whether the table has the entry, or may have it: it cannot be searched to its end."""
    try:
        return find(data, at, after, name) >= 0
    except AmqpError:
        return True


def _without(data: bytes, at: int, after: int, name: bytes) -> bytes:
    """The table's entries but those of that name; all of them when it cannot be read to its end."""
    kept: list[bytes] = []
    run = entry = at + 4
    try:
        while entry < after:
            tag_at = entry + 1 + data[entry]
            over = value_end(data, tag_at, after)
            if data[entry + 1 : tag_at] == name:
                kept.append(data[run:entry])
                run = over
            entry = over
    except AmqpError:
        return data[at + 4 : after]
    kept.append(data[run:after])
    return b"".join(kept)


def _text(data: bytes, at: int, last: int) -> str:
    """A short string: a byte of length, and so many bytes."""
    if at >= last or at + 1 + data[at] > last:
        raise _cut_off()
    return data[at + 1 : at + 1 + data[at]].decode("utf-8", "surrogateescape")


def _number(data: bytes, at: int, size: int, last: int) -> int:
    if at + size > last:
        raise _cut_off()
    return int.from_bytes(data[at : at + size], "big")


def _short() -> AmqpError:
    return AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a content header is cut off")


def _cut_off() -> AmqpError:
    return AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a message's properties do not fit their frame")
