"""Method frames: reading the arguments that the relay looks at, and building the frames that it sends itself."""

from __future__ import annotations

from struct import Struct, pack
from typing import Final

from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_CANCEL,
    BASIC_GET_EMPTY,
    BASIC_NACK,
    BASIC_QOS,
    BASIC_RECOVER,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CONFIRM_SELECT,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_UNBLOCKED,
    QUEUE_DELETE,
    SYNTAX_ERROR,
    AmqpError,
)

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")

#: What keeps a leg alive (§4.2.7).
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Arguments:
    """Reads a method's arguments in order. ``start`` and ``end`` are those of the whole frame. Raises
    :class:`AmqpError` when there are fewer than asked for."""

    __slots__ = ("_data", "_end", "_method", "pos")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._method = method_of(data, start, end)
        #: Where the next argument begins.
        self.pos = start + 11
        self._end = end - 1

    def u8(self) -> int:
        """An octet, or the bits of one."""
        return self._data[self._move(1)]

    def u16(self) -> int:
        """A short."""
        return int(_U16.unpack_from(self._data, self._move(2))[0])

    def u32(self) -> int:
        """A long."""
        return int(_U32.unpack_from(self._data, self._move(4))[0])

    def u64(self) -> int:
        """A long long."""
        return int(_U64.unpack_from(self._data, self._move(8))[0])

    def short_bytes(self) -> bytes:
        """A short string as it is."""
        size = self.u8()
        start = self._move(size)
        return self._data[start : start + size]

    def short(self) -> str:
        """A short string as text; bytes that are not UTF-8 survive as surrogates."""
        return self.short_bytes().decode("utf-8", "surrogateescape")

    def long_bytes(self) -> bytes:
        """A long string, or a table, without its length."""
        size = self.u32()
        start = self._move(size)
        return self._data[start : start + size]

    def skip(self, size: int) -> None:
        """Pass over that many bytes."""
        self._move(size)

    def _move(self, size: int) -> int:
        start = self.pos
        if start + size > self._end:
            raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a method ends before its last argument", self._method)
        self.pos = start + size
        return start


def method_of(data: bytes, start: int, end: int) -> int:
    """Which method a method frame is. Raises :class:`AmqpError` when it is too short to be one."""
    if end - start < 12:
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a method frame without a method")
    return int(_U32.unpack_from(data, start + 7)[0])


def method_name(method: int) -> str:
    """A method for people, by its numbers."""
    return f"method {method >> 16}.{method & 0xFFFF}"


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """A frame."""
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, method: int, arguments: bytes = b"") -> bytes:
    """A method frame."""
    return pack(">BHII", 1, channel, len(arguments) + 4, method) + arguments + b"\xce"


def short(text: str) -> bytes:
    """A short string; cut at 255 bytes."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > 255:
        data = data[:255].decode("utf-8", "ignore").encode()
    return bytes((len(data),)) + data


def _close_arguments(code: int, text: str, cause: int) -> bytes:
    return pack(">H", code) + short(text) + pack(">I", cause)


def connection_close(code: int, text: str, cause: int = 0) -> bytes:
    """``connection.close``; ``cause`` is the method that led to it."""
    return method(0, CONNECTION_CLOSE, _close_arguments(code, text, cause))


def connection_close_ok() -> bytes:
    """``connection.close-ok``."""
    return method(0, CONNECTION_CLOSE_OK)


def channel_close(channel: int, code: int, text: str, cause: int = 0) -> bytes:
    """``channel.close``."""
    return method(channel, CHANNEL_CLOSE, _close_arguments(code, text, cause))


def channel_close_ok(channel: int) -> bytes:
    """``channel.close-ok``."""
    return method(channel, CHANNEL_CLOSE_OK)


def blocked(reason: str) -> bytes:
    """``connection.blocked``, of RabbitMQ."""
    return method(0, CONNECTION_BLOCKED, short(reason))


def unblocked() -> bytes:
    """``connection.unblocked``, of RabbitMQ."""
    return method(0, CONNECTION_UNBLOCKED)


def basic_get_empty(number: int) -> bytes:
    """``basic.get-empty``: no message is there."""
    return method(number, BASIC_GET_EMPTY, b"\x00")


def basic_ack(channel: int, tag: int, multiple: bool) -> bytes:
    """``basic.ack``."""
    return pack(">BHIIQBB", 1, channel, 13, BASIC_ACK, tag, multiple, 0xCE)


def basic_nack(channel: int, tag: int, multiple: bool, requeue: bool) -> bytes:
    """``basic.nack``, of RabbitMQ. As an answer to a publish ``requeue`` means nothing."""
    return pack(">BHIIQBB", 1, channel, 13, BASIC_NACK, tag, multiple | requeue << 1, 0xCE)


def publish_answers(channel: int, answers: list[tuple[int, bool]], positive: bool) -> bytes:
    """What has become of publishes, by their (number, multiple): ``basic.ack`` or ``basic.nack`` of each."""
    if positive:
        return b"".join([basic_ack(channel, tag, many) for tag, many in answers])
    return b"".join([basic_nack(channel, tag, many, False) for tag, many in answers])


def basic_qos(channel: int, count: int) -> bytes:
    """``basic.qos`` for the consumers that begin after it."""
    return method(channel, BASIC_QOS, pack(">IHB", 0, count, 0))


def confirm_select(channel: int) -> bytes:
    """``confirm.select``, of RabbitMQ, that wants no answer."""
    return method(channel, CONFIRM_SELECT, b"\x01")


def basic_cancel(channel: int, consumer: bytes) -> bytes:
    """``basic.cancel`` that wants no answer."""
    return method(channel, BASIC_CANCEL, bytes((len(consumer),)) + consumer + b"\x01")


def basic_recover(channel: int) -> bytes:
    """``basic.recover`` into the queues."""
    return method(channel, BASIC_RECOVER, b"\x01")


def queue_delete(channel: int, name: str) -> bytes:
    """``queue.delete``, whatever is in it and whoever uses it, that wants no answer."""
    return method(channel, QUEUE_DELETE, b"\x00\x00" + short(name) + b"\x04")


def settlement(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The delivery tag and the octet of bits of an ``ack``, ``nack`` or ``reject``. Raises :class:`AmqpError`."""
    if end - start < 21:
        raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - a method ends before its last argument")
    return int(_U64.unpack_from(data, start + 11)[0]), data[start + 19]
