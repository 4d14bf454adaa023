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
    BASIC,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    HEADERS,
    MORE_FLAGS,
    PRIORITY,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    USER_ID,
    AmqpError,
)
from sidecar.amqp.wire.properties import PROPERTIES, SHORT_STRING, TABLE, Properties
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
    data: bytes, start: int, end: int, entries: bytes, limit: int, anyway: bool = False, instead: bytes = b"",
    contexts: tuple[bytes, ...] = (TRACEPARENT,),
) -> bytes | None:  # fmt: skip
    """Add ``entries`` (see :func:`~sidecar.amqp.wire.tables.table_entry`) at the end of the ``headers`` property, or in
    a new one, and return the frame; but for two lengths no other byte changes. Entries named ``instead`` (as that
    stands in a table: its length first) at the top of the headers go for them.

    Return None for a frame that must stay as it is: its headers have one of ``contexts`` (named like ``instead``) at
    their top, or cannot be searched for them (``anyway``: that does not matter); it would be longer than ``limit``
    bytes; or its flags go on in a second word, which no property uses. Raises :class:`AmqpError` (502) when the
    properties up to the headers do not fit the frame. Properties after them are the broker's to judge."""
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
    if not flags & _HEADERS:
        return _with_headers(data, start, end, at, entries, limit)
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
    added = len(entries)
    before = data[at + 4 : after]
    if instead and instead in before:
        before = _without(data, at, after, instead[1:])
        added -= length - len(before)
    if size + added > limit:
        return None
    return b"".join(
        [
            data[start : start + _SIZE],
            _pack_u32(size - 8 + added),
            data[start + _CLASS : at],
            _pack_u32(length + added),
            before,
            entries,
            data[after:end],
        ]
    )


def _with_headers(data: bytes, start: int, end: int, at: int, entries: bytes, limit: int) -> bytes | None:
    """Return the frame with a ``headers`` property of these entries at ``at``; None when that is more than ``limit``
    bytes."""
    if at > end - 1:
        raise _cut_off()
    added = len(entries)
    if end - start + added + 4 > limit:
        return None
    return b"".join(
        [
            data[start : start + _SIZE],
            _pack_u32(end - start - 4 + added),
            data[start + _CLASS : start + FLAGS],
            bytes((data[start + FLAGS] | _HEADERS,)),
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
    at = place(data, start, end, HEADERS)
    after = table_end(data, at, end - 1)
    try:
        tag_at = find(data, at, after, name[1:])
        if tag_at < 0 or data[tag_at] != _STRING:
            return None
        return data[tag_at + 5 : value_end(data, tag_at, after)]
    except AmqpError:
        return None


def place(data: bytes, start: int, end: int, wanted: int) -> int:
    """Where the property with that flag is; -1: the message has none. Raises :class:`AmqpError` (502) when the
    properties up to it do not fit the frame."""
    if end - start < _SHORTEST:
        raise _short()
    at = start + FLAGS
    flags = data[at] << 8 | data[at + 1]
    if not flags & wanted:
        return -1
    last = end - 1
    at = start + _PROPERTIES
    if flags & MORE_FLAGS:
        at += 2
        while at <= last and data[at - 1] & MORE_FLAGS:
            at += 2
    for _, flag, size in PROPERTIES:
        if at >= last:
            raise _cut_off()
        if flag == wanted:
            break
        if flags & flag:
            if size > 0:
                at += size
            elif size == SHORT_STRING:
                at += 1 + data[at]
            else:
                at = table_end(data, at, last)
    return at


def priority(data: bytes, start: int, end: int) -> int:
    """The message's priority, 0 when it has none. Raises as :func:`place`."""
    at = place(data, start, end, PRIORITY)
    return 0 if at < 0 else data[at]


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
    for name, flag, size in PROPERTIES:
        if not flags & flag:
            continue
        if size == SHORT_STRING:
            setattr(found, name, _text(data, at, last))
            at += 1 + data[at]
        elif size == TABLE:
            after = table_end(data, at, last)
            setattr(found, name, data[at:after])
            at = after
        else:
            setattr(found, name, _number(data, at, size, last))
            at += size
    return found


def _has(data: bytes, at: int, after: int, name: bytes) -> bool:
    """Whether the table has the entry, or may have it: it cannot be searched to its end."""
    try:
        return find(data, at, after, name) >= 0
    except AmqpError:
        return True


def _without(data: bytes, at: int, after: int, name: bytes) -> bytes:
    """The table's entries but those of that name; all of them when it cannot be read to its end."""
    left: list[bytes] = []
    run = entry = at + 4
    try:
        while entry < after:
            tag_at = entry + 1 + data[entry]
            over = value_end(data, tag_at, after)
            if data[entry + 1 : tag_at] == name:
                left.append(data[run:entry])
                run = over
            entry = over
    except AmqpError:
        return data[at + 4 : after]
    left.append(data[run:after])
    return b"".join(left)


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
