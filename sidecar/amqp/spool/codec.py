"""A message as bytes, which say by themselves whether they are what was written.

``crc32 | version u8 | flags u8 | priority u8 | id u64 | at f64 | expires f64 | 7 lengths | texts | header | body``

SQLite notices damage to its own structure, but not to what it holds; hence the checksum, over all that follows it. A
record has everything but the number of attempts, so it can be read without the rest of the database.
"""

from __future__ import annotations

from struct import Struct
from typing import Final
from zlib import crc32

from sidecar.amqp.spool.message import SpooledMessage

VERSION: Final = 1

_CRC: Final = Struct(">I")
#: Lengths of virtual host, lane, exchange, routing key, user, trace, origin; then of the header.
_FIXED: Final = Struct(">BBBQddHHHHHHHI")
_START: Final = _CRC.size + _FIXED.size

#: The longest origin and trace that are kept, characters; they are for people only.
_LONGEST: Final = 500


class BadRecordError(ValueError):
    """These bytes are not what was written."""


def pack(message: SpooledMessage) -> bytes:
    """The record of a message that has its ``id``. Raises ``ValueError`` when something in it is out of bounds, which
    nothing that came in a frame is."""
    vhost = message.vhost.encode("utf-8", "surrogateescape")
    lane = message.lane.encode("utf-8", "surrogateescape")
    exchange = message.exchange.encode("utf-8", "surrogateescape")
    routing_key = message.routing_key.encode("utf-8", "surrogateescape")
    user = message.user.encode("utf-8", "surrogateescape")
    trace = message.trace[:_LONGEST].encode("utf-8", "surrogateescape")
    origin = message.origin[:_LONGEST].encode("utf-8", "surrogateescape")
    header = message.header
    if max(len(vhost), len(lane), len(exchange), len(routing_key), len(user)) > 0xFFFF:
        raise ValueError("a name of a message is too long")
    fixed = _FIXED.pack(
        VERSION,
        message.flags,
        message.priority,
        message.id,
        message.at,
        message.expires,
        len(vhost),
        len(lane),
        len(exchange),
        len(routing_key),
        len(user),
        len(trace),
        len(origin),
        len(header),
    )
    body = message.content
    start = b"".join((fixed, vhost, lane, exchange, routing_key, user, trace, origin, header))
    return b"".join((_CRC.pack(crc32(body, crc32(start))), start, body))


def unpack(record: bytes) -> SpooledMessage:
    """The message of a record. Raises :class:`BadRecordError`."""
    if len(record) < _START:
        raise BadRecordError("a record is cut off")
    if crc32(memoryview(record)[4:]) != _CRC.unpack_from(record)[0]:
        raise BadRecordError("a record is not what was written")
    (
        version, flags, priority, number, at, expires, vhost, lane, exchange, routing_key, user, trace, origin, header,
    ) = _FIXED.unpack_from(record, 4)  # fmt: skip
    if version != VERSION:
        raise BadRecordError(f"a record of version {version}")
    texts: list[str] = []
    pos = _START
    for length in (vhost, lane, exchange, routing_key, user, trace, origin):
        texts.append(record[pos : pos + length].decode("utf-8", "surrogateescape"))
        pos += length
    message = SpooledMessage(
        texts[0],
        texts[1],
        texts[2],
        texts[3],
        record[pos : pos + header],
        record,
        flags,
        priority,
        texts[4],
        at,
        expires,
        texts[6],
        texts[5],
        pos + header,
        len(record),
    )
    message.id = number
    return message
