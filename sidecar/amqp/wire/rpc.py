"""What a client asks on a channel, and which of the broker's methods is the answer (AMQP 0-9-1 §1.4 to 1.9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from struct import Struct
from typing import Final

from sidecar.amqp.wire import constants
from sidecar.amqp.wire.methods import Arguments, method_of

_size_at: Final = Struct(">I").unpack_from

EXCHANGE_DECLARE_OK: Final = 0x0028000B
EXCHANGE_BIND_OK: Final = 0x0028001F
QUEUE_BIND_OK: Final = 0x00320015
QUEUE_PURGE_OK: Final = 0x0032001F
TX_SELECT_OK: Final = 0x005A000B
TX_COMMIT_OK: Final = 0x005A0015
TX_ROLLBACK_OK: Final = 0x005A001F
#: Class 30 is not in 0-9-1 any more, and RabbitMQ answers it all the same.
ACCESS_REQUEST_OK: Final = 0x001E000B

#: What answers a method of a client on a channel; ``basic.get`` may also get :data:`constants.BASIC_GET_EMPTY`.
ANSWERS: Final[dict[int, int]] = {
    constants.CHANNEL_OPEN: constants.CHANNEL_OPEN_OK,
    constants.CHANNEL_FLOW: constants.CHANNEL_FLOW_OK,
    constants.CHANNEL_CLOSE: constants.CHANNEL_CLOSE_OK,
    constants.ACCESS_REQUEST: ACCESS_REQUEST_OK,
    constants.EXCHANGE_DECLARE: EXCHANGE_DECLARE_OK,
    constants.EXCHANGE_DELETE: constants.EXCHANGE_DELETE_OK,
    constants.EXCHANGE_BIND: EXCHANGE_BIND_OK,
    constants.EXCHANGE_UNBIND: constants.EXCHANGE_UNBIND_OK,
    constants.QUEUE_DECLARE: constants.QUEUE_DECLARE_OK,
    constants.QUEUE_BIND: QUEUE_BIND_OK,
    constants.QUEUE_PURGE: QUEUE_PURGE_OK,
    constants.QUEUE_DELETE: constants.QUEUE_DELETE_OK,
    constants.QUEUE_UNBIND: constants.QUEUE_UNBIND_OK,
    constants.BASIC_QOS: constants.BASIC_QOS_OK,
    constants.BASIC_CONSUME: constants.BASIC_CONSUME_OK,
    constants.BASIC_CANCEL: constants.BASIC_CANCEL_OK,
    constants.BASIC_GET: constants.BASIC_GET_OK,
    constants.BASIC_RECOVER: constants.BASIC_RECOVER_OK,
    constants.CONFIRM_SELECT: constants.CONFIRM_SELECT_OK,
    constants.TX_SELECT: TX_SELECT_OK,
    constants.TX_COMMIT: TX_COMMIT_OK,
    constants.TX_ROLLBACK: TX_ROLLBACK_OK,
}
#: All of them.
ANSWERING: Final = frozenset(ANSWERS.values()) | {constants.BASIC_GET_EMPTY}

#: Method → how many short strings there are between its reserved short and the octet with the bit that says that no
#: answer is wanted, and that bit.
_NO_WAIT: Final[dict[int, tuple[int, int]]] = {
    constants.EXCHANGE_DECLARE: (2, 16),
    constants.EXCHANGE_DELETE: (1, 2),
    constants.EXCHANGE_BIND: (3, 1),
    constants.EXCHANGE_UNBIND: (3, 1),
    constants.QUEUE_DECLARE: (1, 16),
    constants.QUEUE_BIND: (3, 1),
    constants.QUEUE_PURGE: (1, 1),
    constants.QUEUE_DELETE: (1, 4),
    constants.BASIC_CONSUME: (2, 8),
}


class PendingCall:
    """A method that went to the broker. ``no_wait``: no answer is wanted, one to a later method means that it went
    well. ``limit`` is the prefetch limit that a consumer gets."""

    __slots__ = ("frame", "limit", "method", "no_wait")

    def __init__(self, found: int, frame: bytes, no_wait: bool, limit: int) -> None:
        self.method = found
        self.frame = frame
        self.no_wait = no_wait
        self.limit = limit

    def is_answered(self, found: int, tag: bytes) -> bool:
        """Whether this method of the broker answers it; ``tag`` is that of the consumer it is about, as it was asked
        for."""
        if self.no_wait or ANSWERS[self.method] != found:
            return False
        return (
            self.method not in (constants.BASIC_CONSUME, constants.BASIC_CANCEL)
            or consumer_tag(self.method, self.frame) == tag
        )


def find_call(asked: deque[PendingCall], found: int, tag: bytes) -> int:
    """Where the method is that this one answers; -1: nowhere. A tag may be one that the broker has made up."""
    tags = (tag, b"") if found == constants.BASIC_CONSUME_OK else (tag,)
    for wanted in tags:
        for place, each in enumerate(asked):
            if each.is_answered(found, wanted):
                return place
    return -1


def consumer_tag(found: int, frame: bytes) -> bytes:
    """The tag in a ``basic.consume`` or ``basic.cancel``; empty: the broker makes one up."""
    arguments = Arguments(frame, 0, len(frame))
    if found == constants.BASIC_CONSUME:
        arguments.skip(2)
        arguments.short_bytes()
    return arguments.short_bytes()


def no_wait(found: int, data: bytes, start: int, end: int) -> bool:
    """Whether a method says that it wants no answer."""
    arguments = Arguments(data, start, end)
    if found in _NO_WAIT:
        texts, bit = _NO_WAIT[found]
        arguments.skip(2)
        for _ in range(texts):
            arguments.short_bytes()
        return bool(arguments.u8() & bit)
    if found == constants.CONFIRM_SELECT:
        return bool(arguments.u8() & 1)
    if found == constants.BASIC_CANCEL:
        arguments.short_bytes()
        return bool(arguments.u8() & 1)
    return False


def methods_in(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(channel, method, start, end) of each method among whole frames."""
    start = 0
    while start < len(data):
        end = start + _size_at(data, start + 3)[0] + 8
        if data[start] == constants.METHOD:
            yield data[start + 1] << 8 | data[start + 2], method_of(data, start, end), start, end
        start = end
