"""Declarations and bindings as objects that can be remembered, compared, and told to a broker again (AMQP 0-9-1 §1.7.2
and 1.7.3: exchange.declare, queue.declare, queue.bind; RabbitMQ's exchange.bind)."""

from __future__ import annotations

from typing import Final

from sidecar.amqp.wire.constants import (
    EXCHANGE_BIND,
    EXCHANGE_DECLARE,
    EXCHANGE_DELETE,
    EXCHANGE_UNBIND,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DELETE,
    QUEUE_UNBIND,
    SYNTAX_ERROR,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments, method, short
from sidecar.amqp.wire.tables import decode_table, encode_table

#: The methods that state one.
STATING: Final = frozenset({EXCHANGE_DECLARE, QUEUE_DECLARE, EXCHANGE_BIND, QUEUE_BIND})
#: The methods that end one, or all about a name.
ENDING: Final = frozenset({EXCHANGE_DELETE, QUEUE_DELETE, EXCHANGE_UNBIND, QUEUE_UNBIND})

# Bits of both declares; exclusive is of queues only, and auto-delete has another place with each.
PASSIVE: Final = 1
_DURABLE: Final = 2
_EXCLUSIVE: Final = 4
_EXCHANGE_AUTO_DELETE: Final = 4
_EXCHANGE_INTERNAL: Final = 8
_QUEUE_AUTO_DELETE: Final = 8
_DECLARE_NO_WAIT: Final = 16
_BIND_NO_WAIT: Final = 1

_EMPTY_TABLE: Final = b"\x00\x00\x00\x00"

QUEUE: Final = "q"
EXCHANGE: Final = "e"


class Declaration:
    """A declaration or a binding. ``method`` is the one that states it. ``name`` is the queue or exchange that is
    declared, or what is bound (the destination); ``other`` the exchange that it is bound to, empty for a declaration.
    ``key`` is the same for declarations that say the same, in whatever order and number format their arguments came.
    ``server_named``: the broker has made up the name."""

    __slots__ = ("_parts", "bits", "key", "method", "name", "other", "server_named", "table")

    def __init__(self, found: int, name: str, other: str, parts: bytes, bits: int, table: bytes) -> None:
        self.method = found
        self.name = name
        self.other = other
        self.bits = bits
        self.server_named = False
        self._parts = parts
        self.table = table
        self.key = found.to_bytes(4, "big") + parts + bytes((bits,)) + canonical(table)

    @property
    def passive(self) -> bool:
        """It says only that there is such a queue or exchange."""
        return bool(self.bits & PASSIVE) and self.method in (EXCHANGE_DECLARE, QUEUE_DECLARE)

    @property
    def transient(self) -> bool:
        """It ends by itself: with its connection, its last user, or the broker."""
        bits = self.bits
        if self.method == QUEUE_DECLARE:
            return not bits & _DURABLE or bool(bits & (_EXCLUSIVE | _QUEUE_AUTO_DELETE))
        if self.method == EXCHANGE_DECLARE:
            return not bits & _DURABLE or bool(bits & _EXCHANGE_AUTO_DELETE)
        return False

    @property
    def own(self) -> bool:
        """It is a queue that a client makes for itself: nobody else may use it, or it goes with its last consumer."""
        return self.method == QUEUE_DECLARE and bool(self.bits & (_EXCLUSIVE | _QUEUE_AUTO_DELETE))

    @property
    def exclusive(self) -> bool:
        """It is a queue that ends with its connection, and that no other connection may use."""
        return self.method == QUEUE_DECLARE and bool(self.bits & _EXCLUSIVE)

    @property
    def ends_unused(self) -> bool:
        """It is a queue that goes with its last consumer, or an exchange that goes with its last binding."""
        if self.method == QUEUE_DECLARE:
            return bool(self.bits & _QUEUE_AUTO_DELETE)
        return self.method == EXCHANGE_DECLARE and bool(self.bits & _EXCHANGE_AUTO_DELETE)

    @property
    def size(self) -> int:
        """About how many bytes it costs to remember."""
        return len(self.key) + len(self._parts) + len(self.table) + 200

    def names(self) -> list[str]:
        """The queues and exchanges that it is about, each behind :data:`QUEUE` or :data:`EXCHANGE`."""
        if self.method == QUEUE_DECLARE:
            return [QUEUE + self.name]
        if self.method == EXCHANGE_DECLARE:
            return [EXCHANGE + self.name]
        return [(QUEUE if self.method == QUEUE_BIND else EXCHANGE) + self.name, EXCHANGE + self.other]

    def wire(self) -> bytes:
        """Its arguments as they are sent, but for the reserved short that is in front of them."""
        return self._parts + bytes((self.bits,)) + self.table

    def frame(self, channel: int) -> bytes:
        """The method that states it and wants an answer."""
        return method(channel, self.method, b"\x00\x00" + self.wire())

    def existence(self) -> Declaration:
        """Of a declaration: that there is such a queue or exchange."""
        return exists(self.method, self.name)


def exists(found: int, name: str) -> Declaration:
    """That there is such a queue or exchange; ``found`` is the method that would declare it."""
    parts = short(name)
    return Declaration(found, name, "", parts if found == QUEUE_DECLARE else parts + b"\x00", PASSIVE, _EMPTY_TABLE)


def read(found: int, data: bytes, start: int, end: int, last_queue: str = "") -> tuple[Declaration, bool]:
    """The declaration that a method states, or, of an unbind, the one that it ends; and whether no answer is wanted. An
    empty queue name means ``last_queue`` when something is bound (§ "queue.bind"). Raises :class:`AmqpError`."""
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    if found == QUEUE_DECLARE:
        name = arguments.short()
        bits = arguments.u8()
        if bits & PASSIVE:
            return exists(found, name), bool(bits & _DECLARE_NO_WAIT)
        wanted = bits & (_DURABLE | _EXCLUSIVE | _QUEUE_AUTO_DELETE)
        return Declaration(found, name, "", short(name), wanted, _table(arguments)), bool(bits & _DECLARE_NO_WAIT)
    if found == EXCHANGE_DECLARE:
        name, kind = arguments.short(), arguments.short()
        bits = arguments.u8()
        if bits & PASSIVE:
            return exists(found, name), bool(bits & _DECLARE_NO_WAIT)
        wanted = bits & (_DURABLE | _EXCHANGE_AUTO_DELETE | _EXCHANGE_INTERNAL)
        return Declaration(found, name, "", short(name) + short(kind), wanted, _table(arguments)), bool(
            bits & _DECLARE_NO_WAIT
        )
    name, other, routing_key = arguments.short(), arguments.short(), arguments.short()
    no_wait = bool(arguments.u8() & _BIND_NO_WAIT) if found != QUEUE_UNBIND else False
    if found in (QUEUE_BIND, QUEUE_UNBIND):
        found = QUEUE_BIND
        if not name:
            name = last_queue
            routing_key = routing_key or last_queue
    else:
        found = EXCHANGE_BIND
    parts = short(name) + short(other) + short(routing_key)
    return Declaration(found, name, other, parts, 0, _table(arguments)), no_wait


def from_wire(found: int, wire: bytes) -> Declaration:
    """The declaration again out of :meth:`Declaration.wire`. Raises :class:`AmqpError`."""
    if found not in STATING:
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - no declaration or binding")
    frame = method(0, found, b"\x00\x00" + wire)
    return read(found, frame, 0, len(frame))[0]


def canonical(table: bytes) -> bytes:
    """The same bytes for tables that say the same."""
    if table == _EMPTY_TABLE:
        return table
    try:
        return encode_table(_sorted(decode_table(table, 0, len(table))))
    except (TypeError, ValueError):  # a decimal, or a name that grew: then only the very same bytes are the same
        return table


def _sorted(table: dict[str, object]) -> dict[str, object]:
    return {name: _sorted(value) if isinstance(value, dict) else value for name, value in sorted(table.items())}


def _table(arguments: Arguments) -> bytes:
    entries = arguments.long_bytes()
    table = len(entries).to_bytes(4, "big") + entries
    decode_table(table, 0, len(table))
    return table
