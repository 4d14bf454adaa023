"""Partitions: the messages to one exchange are spread over several routing keys, ``<routing key>.<number>``, so that
those with the same value (of a header, a property or a word of the routing key) get the same one, and stay in order.

Which number a value has is fixed for good, as consumers and other programs may count on it: the first eight bytes of
the SHA-256 of the value, as a number with the most significant byte first, go through jump consistent hashing (Lamping
and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014). When ``n`` partitions become ``n + 1``, about
one value in ``n + 1`` moves, and only to the new one.

A message without such a value goes to partition 0. Left alone it would match none of the bindings that were made for
partitions, and the broker would drop it in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from struct import Struct
from typing import Final

from sidecar.amqp.wire.constants import BASIC_PUBLISH, HEADERS, PRECONDITION_FAILED, SYNTAX_ERROR, AmqpError
from sidecar.amqp.wire.content import place
from sidecar.amqp.wire.properties import PROPERTIES
from sidecar.amqp.wire.tables import find, table_end, value_end
from sidecar.core.amqp_settings import AmqpPartition

#: How many values' partitions are remembered for an exchange, and the longest value that is; publishers choose both.
MAX_REMEMBERED: Final = 10_000
MAX_VALUE: Final = 255

_UINT32: Final = Struct(">I")
_U64_MASK: Final = 0xFFFFFFFFFFFFFFFF

_STRINGS: Final = b"Sx"
_BOOLEAN: Final = ord("t")
#: Bytes of a whole number with that tag, and which are signed (see ``tables``).
_WHOLE: Final[dict[int, int]] = {
    ord(tag): size for tags, size in (("bB", 1), ("su", 2), ("Ii", 4), ("lL", 8)) for tag in tags
}
_SIGNED: Final = b"bsIlL"

#: The properties' flags by their names in the configuration.
_FLAGS: Final[dict[str, int]] = {name.replace("_", "-"): flag for name, flag, _ in PROPERTIES}

#: What decides: an entry of the headers, a property, a word of the routing key.
_BY_HEADER, _BY_PROPERTY, _BY_WORD = range(3)


def partition_of(value: bytes, count: int) -> int:
    """The partition of a value, from 0 to ``count`` - 1; the same in every process and every version."""
    key = int.from_bytes(sha256(value).digest()[:8], "big")
    return _jump(key, count)


def _jump(key: int, count: int) -> int:
    """Jump consistent hashing of a number of 64 bits."""
    last = -1
    jump = 0
    while jump < count:
        last = jump
        key = (key * 2862933555777941757 + 1) & _U64_MASK
        jump = int((last + 1) * (2147483648.0 / ((key >> 33) + 1)))
    return last


class Partition:
    """What is spread of one exchange. ``without`` counts the messages that had no value to go by."""

    __slots__ = ("_flag", "_kind", "_mark", "_name", "_suffixes", "_word", "by", "count", "without")

    def __init__(self, settings: AmqpPartition) -> None:
        self.count = settings.count
        self.by = settings.by
        self.without = 0
        #: Value → what is put behind the routing key.
        self._suffixes: dict[bytes, bytes] = {}
        self._kind = _BY_HEADER
        self._name = b""
        self._mark = b""
        self._word = 0
        what, _, name = settings.by.partition(":")
        #: The flag of the property to look at.
        self._flag = HEADERS
        if not name:
            self._name = what.encode()
            #: The name as it stands in a table, after its length.
            self._mark = bytes((len(self._name),)) + self._name
        elif what == "property":
            self._kind = _BY_PROPERTY
            self._flag = _FLAGS[name]
        else:
            self._kind = _BY_WORD
            self._word = int(name) - 1

    def rewrite(self, method: bytes, data: bytes, start: int, end: int) -> bytes:
        """``method``, the whole frame of a ``basic.publish``, with the message's partition in its routing key. The
        message's header frame is in ``data``, from ``start`` to ``end``. The frame grows by four bytes at most, and
        stays shorter than any ``frame-max``.

        Raises :class:`AmqpError`: 502 when arguments or properties do not fit their frames; 406, for the channel, when
        the routing key would be longer than one may be."""
        if len(method) < 17:
            raise _malformed()
        at = 14 + method[13]
        if at + 3 > len(method):
            raise _malformed()
        size = method[at]
        if at + size + 3 != len(method):
            raise _malformed()
        kind = self._kind
        if kind == _BY_HEADER:
            value = self._header(data, start, end)
        elif kind == _BY_PROPERTY:
            value = self._property(data, start, end)
        else:
            words = method[at + 1 : -2].split(b".")
            value = words[self._word] if self._word < len(words) else b""
        suffix = self._suffixes.get(value)
        if suffix is None:
            suffix = self._suffix(value)
        if not value:
            self.without += 1
        if not size:
            suffix = suffix[1:]
        added = len(suffix)
        if size + added > 255:
            number = int.from_bytes(method[1:3], "big")
            text = "PRECONDITION_FAILED - the routing key is too long for the partition that the sidecar adds to it"
            raise AmqpError(PRECONDITION_FAILED, text, BASIC_PUBLISH, number)
        return (
            method[:3]
            + _UINT32.pack(len(method) - 8 + added)
            + method[7:at]
            + bytes((size + added,))
            + method[at + 1 : -2]
            + suffix
            + method[-2:]
        )

    def _suffix(self, value: bytes) -> bytes:
        """What is put behind the routing key."""
        number = partition_of(value, self.count) if value else 0
        suffix = b".%d" % number
        if len(value) <= MAX_VALUE:
            if len(self._suffixes) >= MAX_REMEMBERED:
                self._suffixes.clear()
            self._suffixes[value] = suffix
        return suffix

    def _property(self, data: bytes, start: int, end: int) -> bytes:
        """The value of the property, empty when there is none."""
        at = place(data, start, end, self._flag)
        if at < 0:
            return b""
        after = at + 1 + data[at]
        if after > end - 1:
            raise _cut_off()
        return data[at + 1 : after]

    def _header(self, data: bytes, start: int, end: int) -> bytes:
        """The value of the headers' entry, empty when there is none, it is not of a kind that can be gone by, or the
        table is not well-formed: then the broker will say so."""
        at = place(data, start, end, self._flag)
        if at < 0:
            return b""
        after = table_end(data, at, end - 1)
        if data.find(self._mark, at, after) < 0:
            return b""
        try:
            tag_at = find(data, at, after, self._name)
            if tag_at < 0:
                return b""
            over = value_end(data, tag_at, after)
        except AmqpError:
            return b""
        tag = data[tag_at]
        if tag in _STRINGS:
            return data[tag_at + 5 : over]
        if tag in _WHOLE:
            # As text, so that it does not matter how wide a client's numbers are, or whether they are text already.
            return b"%d" % int.from_bytes(data[tag_at + 1 : over], "big", signed=tag in _SIGNED)
        if tag == _BOOLEAN:
            return b"true" if data[tag_at + 1] else b"false"
        return b""


class Partitions:
    """The partitions of an AMQP port, by exchange."""

    __slots__ = ("exchanges",)

    def __init__(self, settings: Mapping[str, AmqpPartition]) -> None:
        self.exchanges: dict[str, Partition] = {}
        self.update(settings)

    def update(self, settings: Mapping[str, AmqpPartition]) -> None:
        """Other settings. What is the same stays, with its counter."""
        found: dict[str, Partition] = {}
        for exchange, wanted in settings.items():
            old = self.exchanges.get(exchange)
            if old is None or old.count != wanted.count or old.by != wanted.by:
                old = Partition(wanted)
            found[exchange] = old
        self.exchanges = found

    def find(self, exchange: str) -> Partition | None:
        """How the messages to this exchange are spread; ``None``: they are not."""
        return self.exchanges.get(exchange)


def _malformed() -> AmqpError:
    return AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.publish does not end where it should", BASIC_PUBLISH)


def _cut_off() -> AmqpError:
    return AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a message's properties do not fit their frame")
