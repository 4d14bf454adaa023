"""Field tables (AMQP 0-9-1 §4.2.5.5): maps of short names to values with a type tag each, such as a message's headers,
a queue's arguments and what client and broker say about themselves.

The tags are RabbitMQ's, which differ from the specification's (its errata page, "field types"): ``t`` bool, ``b`` ``B``
8 bits, ``s`` ``u`` 16 bits, ``I`` ``i`` 32 bits, ``l`` ``L`` 64 bits signed, ``f`` ``d`` floats, ``D`` decimal, ``S``
string, ``x`` bytes, ``A`` array, ``T`` timestamp, ``F`` table, ``V`` nothing; of a pair the first is the signed one.

In all functions a table begins at ``start``, with the four bytes of its length, and must be over by ``end``. What does
not fit raises :class:`AmqpError` with 502 (syntax error). Text is UTF-8; other bytes survive as lone surrogates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from struct import Struct
from typing import Final

from sidecar.amqp.wire.constants import SYNTAX_ERROR, AmqpError

#: Tables and arrays inside each other that are decoded. What clients send has three or four (``x-death``).
MAX_DEPTH: Final = 32

_LENGTH: Final = Struct(">I")

#: Tag → bytes of a value that is always as long.
_FIXED: Final[dict[int, int]] = {
    tag: size
    for tags, size in ((b"V", 0), (b"tbB", 1), (b"su", 2), (b"Iif", 4), (b"D", 5), (b"lLdT", 8))
    for tag in tags
}
#: Tag → how such a value is read.
_NUMBERS: Final[dict[int, Struct]] = {
    ord(tag): Struct(">" + code)
    for tag, code in (
        ("t", "?"), ("b", "b"), ("B", "B"), ("s", "h"), ("u", "H"), ("I", "i"), ("i", "I"), ("l", "q"), ("L", "q"),
        ("f", "f"), ("d", "d"), ("T", "Q"),
    )
}  # fmt: skip
_DECIMAL: Final = Struct(">Bi")

# Tags whose value begins with its length in four bytes.
_STRING: Final = ord("S")
_BYTES: Final = ord("x")
_ARRAY: Final = ord("A")
_TABLE: Final = ord("F")
_SIZED: Final = b"SxAF"
_DECIMAL_TAG: Final = ord("D")
_VOID: Final = ord("V")


def table_end(data: bytes, start: int, end: int) -> int:
    """Where the table is over. Its entries are not looked at."""
    if start + 4 > end:
        raise _malformed("a table is cut off")
    after = start + 4 + int.from_bytes(data[start : start + 4], "big")
    if after > end:
        raise _malformed("a table is longer than what it is in")
    return after


def table_size(data: bytes, start: int, end: int) -> int:
    """The table's bytes, with the four of its length. Its entries are not looked at."""
    return table_end(data, start, end) - start


def value_end(data: bytes, at: int, end: int) -> int:
    """Where the value whose tag is at ``at`` is over; what is in it is not looked at."""
    if at >= end:
        raise _malformed("a table's entry has no value")
    tag = data[at]
    size = _FIXED.get(tag)
    if size is None:
        if tag not in _SIZED:
            raise _malformed(f"a table's value has the unknown type {tag:#04x}")
        return table_end(data, at + 1, end)
    at += 1 + size
    if at > end:
        raise _malformed("a table's value is cut off")
    return at


def find(data: bytes, start: int, end: int, name: bytes) -> int:
    """Where the tag of the first entry of that name is, -1 when there is none. Entries of inner tables do not count.
    Everything up to it is well-formed on the outside, what follows it may be anything."""
    end = table_end(data, start, end)
    at = start + 4
    while at < end:
        tag_at = at + 1 + data[at]
        if data[at + 1 : tag_at] == name and tag_at < end:
            return tag_at
        at = value_end(data, tag_at, end)
    return -1


def decode_table(data: bytes, start: int, end: int) -> dict[str, object]:
    """The table as a dict: numbers, :class:`str`, :class:`bytes` (``x``), :class:`Decimal`, lists, dicts, None; a
    timestamp is its number of seconds. Of entries with the same name the first counts, as it does for RabbitMQ."""
    return _decode_table(data, start, end, MAX_DEPTH)


def encode_table(table: Mapping[str, object]) -> bytes:
    """The table with its length. Raises :class:`TypeError` for a value that has no type here and :class:`ValueError`
    for one that is too big for it, as for a name of more than 255 bytes."""
    entries = b"".join([table_entry(name, value) for name, value in table.items()])
    return _LENGTH.pack(len(entries)) + entries


def table_entry(name: str, value: object) -> bytes:
    """One entry as it stands inside a table; errors as of :func:`encode_table`."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > 255:
        raise ValueError(f"a table's name of {len(raw)} bytes")
    return bytes((len(raw),)) + raw + _encode_value(value)


def with_entry(data: bytes, start: int, end: int, path: Sequence[str], value: object, replace: bool = False) -> bytes:
    """A copy of the table with the entry at ``path`` set, the last of ``path`` being its name and those before it the
    tables that it is in, which are made when there are none. All other bytes stay as they are. When there is such an
    entry, it is kept and the copy is the same, unless ``replace`` asks for the new value; when something that is not a
    table is in the way, that is kept in any case."""
    after = table_end(data, start, end)
    name = path[0]
    tag_at = find(data, start, after, name.encode("utf-8", "surrogateescape"))
    if tag_at < 0:
        for outer in reversed(path[1:]):
            value = {outer: value}
        entries = data[start + 4 : after] + table_entry(name, value)
    elif len(path) == 1:
        value_after = value_end(data, tag_at, after)
        if not replace:
            return data[start:after]
        entries = data[start + 4 : tag_at] + _encode_value(value) + data[value_after:after]
    elif data[tag_at] == _TABLE:
        value_after = value_end(data, tag_at, after)
        inner = with_entry(data, tag_at + 1, value_after, path[1:], value, replace)
        entries = data[start + 4 : tag_at + 1] + inner + data[value_after:after]
    else:
        return data[start:after]
    return _LENGTH.pack(len(entries)) + entries


def _decode_table(data: bytes, start: int, end: int, depth: int) -> dict[str, object]:
    if not depth:
        raise _malformed("tables are too deep inside each other")
    end = table_end(data, start, end)
    at = start + 4
    table: dict[str, object] = {}
    while at < end:
        tag_at = at + 1 + data[at]
        after = value_end(data, tag_at, end)
        name = data[at + 1 : tag_at].decode("utf-8", "surrogateescape")
        table.setdefault(name, _decode_value(data, tag_at, after, depth))
        at = after
    return table


def _decode_array(data: bytes, start: int, end: int, depth: int) -> list[object]:
    if not depth:
        raise _malformed("tables are too deep inside each other")
    at = start + 4
    items: list[object] = []
    while at < end:
        after = value_end(data, at, end)
        items.append(_decode_value(data, at, after, depth))
        at = after
    return items


def _decode_value(data: bytes, at: int, end: int, depth: int) -> object:
    """The value with its tag at ``at`` that is over exactly at ``end``."""
    tag = data[at]
    if tag == _STRING:
        return data[at + 5 : end].decode("utf-8", "surrogateescape")
    if tag == _TABLE:
        return _decode_table(data, at + 1, end, depth - 1)
    if tag == _ARRAY:
        return _decode_array(data, at + 1, end, depth - 1)
    if tag == _BYTES:
        return data[at + 5 : end]
    if tag == _VOID:
        return None
    if tag == _DECIMAL_TAG:
        scale, digits = _DECIMAL.unpack_from(data, at + 1)
        return Decimal(digits).scaleb(-scale)
    value: object = _NUMBERS[tag].unpack_from(data, at + 1)[0]
    return value


def _encode_value(value: object) -> bytes:
    if isinstance(value, str):
        return _sized(b"S", value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return b"I" + value.to_bytes(4, "big", signed=True)
        if -(1 << 63) <= value < 1 << 63:
            return b"l" + value.to_bytes(8, "big", signed=True)
        raise ValueError("a number of more than 64 bits in a table")
    if isinstance(value, float):
        return b"d" + _NUMBERS[ord("d")].pack(value)
    if isinstance(value, bytes):
        return _sized(b"x", value)
    if value is None:
        return b"V"
    if isinstance(value, dict):
        return b"F" + encode_table(value)
    if isinstance(value, (list, tuple)):
        return _sized(b"A", b"".join([_encode_value(item) for item in value]))
    raise TypeError(f"a table cannot hold a {type(value).__name__}")


def _sized(tag: bytes, value: bytes) -> bytes:
    return tag + _LENGTH.pack(len(value)) + value


def _malformed(text: str) -> AmqpError:
    return AmqpError(SYNTAX_ERROR, f"SYNTAX_ERROR - {text}")
