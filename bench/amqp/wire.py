"""AMQP 0-9-1 as the load generator needs it: frames built once and sent many times, and a scan of what comes back.

It trusts its peer; what is no answer to what was asked raises :class:`WireError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from bench.processes import BenchError
from sidecar.amqp.wire import constants


class WireError(BenchError):
    """The peer did something else than what the load asks for."""


_FRAME: Final = struct.Struct(">BHI")
_ACK: Final = struct.Struct(">BHIIQBB")
_FRAME_END: Final = bytes([constants.FRAME_END])
#: The one channel that each connection of the load uses.
CHANNEL: Final = 1


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + _FRAME_END


def method(number: int, channel: int, arguments: bytes = b"") -> bytes:
    return frame(constants.METHOD, channel, struct.pack(">I", number) + arguments)


def short(text: str) -> bytes:
    """A short string."""
    data = text.encode()
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    """A long string; an empty one is an empty table, too."""
    return struct.pack(">I", len(data)) + data


def start_ok(user: str, password: str) -> bytes:
    secret = f"\0{user}\0{password}".encode()
    return method(constants.CONNECTION_START_OK, 0, long(b"") + short("PLAIN") + long(secret) + short("en_US"))


def tune_ok(channel_max: int, frame_max: int) -> bytes:
    """Without heartbeats: they would only be in the way of counting."""
    return method(constants.CONNECTION_TUNE_OK, 0, struct.pack(">HIH", channel_max, frame_max, 0))


def open_vhost(vhost: str) -> bytes:
    return method(constants.CONNECTION_OPEN, 0, short(vhost) + short("") + b"\0")


def close_connection() -> bytes:
    return method(constants.CONNECTION_CLOSE, 0, struct.pack(">H", constants.REPLY_SUCCESS) + short("") + b"\0\0\0\0")


def open_channel() -> bytes:
    return method(constants.CHANNEL_OPEN, CHANNEL, short(""))


def confirm_select() -> bytes:
    return method(constants.CONFIRM_SELECT, CHANNEL, b"\0")


def declare_exchange(name: str, kind: str) -> bytes:
    return method(constants.EXCHANGE_DECLARE, CHANNEL, b"\0\0" + short(name) + short(kind) + b"\0" + long(b""))


def delete_exchange(name: str) -> bytes:
    return method(constants.EXCHANGE_DELETE, CHANNEL, b"\0\0" + short(name) + b"\0")


def declare_queue(name: str, max_length: int = 0) -> bytes:
    """A transient classic queue; with ``max_length``, the oldest messages beyond it are dropped."""
    arguments = short("x-max-length") + b"l" + struct.pack(">q", max_length) if max_length else b""
    return method(constants.QUEUE_DECLARE, CHANNEL, b"\0\0" + short(name) + b"\0" + long(arguments))


def bind_queue(name: str, exchange: str, routing_key: str) -> bytes:
    names = short(name) + short(exchange) + short(routing_key)
    return method(constants.QUEUE_BIND, CHANNEL, b"\0\0" + names + b"\0" + long(b""))


def delete_queue(name: str) -> bytes:
    return method(constants.QUEUE_DELETE, CHANNEL, b"\0\0" + short(name) + b"\0")


def qos(prefetch: int) -> bytes:
    return method(constants.BASIC_QOS, CHANNEL, struct.pack(">IHB", 0, prefetch, 0))


def consume(queue: str, tag: str) -> bytes:
    return method(constants.BASIC_CONSUME, CHANNEL, b"\0\0" + short(queue) + short(tag) + b"\0" + long(b""))


def cancel(tag: str) -> bytes:
    return method(constants.BASIC_CANCEL, CHANNEL, short(tag) + b"\0")


def get(queue: str) -> bytes:
    """With ``no-ack``."""
    return method(constants.BASIC_GET, CHANNEL, b"\0\0" + short(queue) + b"\x01")


def ack(tag: int, multiple: bool = False) -> bytes:
    """For one delivery or publish, or all up to it."""
    return _ACK.pack(constants.METHOD, CHANNEL, 13, constants.BASIC_ACK, tag, multiple, constants.FRAME_END)


def publish(exchange: str, routing_key: str, body: bytes, traced: bool = False) -> bytes:
    """A whole transient message; ``traced``: with a trace context, as an instrumented client sends it."""
    names = short(exchange) + short(routing_key)
    return method(constants.BASIC_PUBLISH, CHANNEL, b"\0\0" + names + b"\0") + content(body, traced)


def deliver(consumer: str, tag: int, body: bytes) -> bytes:
    """The same, as the broker hands it to a consumer."""
    arguments = short(consumer) + struct.pack(">QB", tag, 0) + short("") + short("bench.queue")
    return method(constants.BASIC_DELIVER, CHANNEL, arguments) + content(body)


def content(body: bytes, traced: bool = False) -> bytes:
    """Header and body, with a content type and a table of two headers, as task queues send them."""
    headers = short("lang") + b"S" + long(b"py") + short("task") + b"S" + long(b"bench.publish")
    if traced:
        headers += short("traceparent") + b"S" + long(f"00-{1:032x}-{1:016x}-00".encode())
    properties = short("application/json") + long(headers) + b"\x01"
    flags = constants.CONTENT_TYPE | constants.HEADERS | constants.DELIVERY_MODE
    header = struct.pack(">HHQH", constants.BASIC, 0, len(body), flags) + properties
    return frame(constants.HEADER, CHANNEL, header) + frame(constants.BODY, CHANNEL, body)


def frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of the payload of each whole frame in ``data``, one after another from its beginning."""
    at = 0
    while at + 8 <= len(data):
        kind, _, size = _FRAME.unpack_from(data, at)
        end = at + 7 + size
        if end >= len(data):
            return
        if data[end] != constants.FRAME_END:
            raise WireError("a frame without its end")
        yield kind, at + 7, end
        at = end + 1


class Confirms:
    """Which publishes of a channel were confirmed, each exactly once."""

    __slots__ = ("_above", "low", "sent")

    def __init__(self) -> None:
        self.sent = 0
        #: All up to this tag are confirmed; those above it that are, in a set.
        self.low = 0
        self._above: set[int] = set()

    @property
    def outstanding(self) -> int:
        return self.sent - self.low - len(self._above)

    def confirmed(self, tag: int, multiple: bool) -> int:
        """How many publishes this answers; WireError for one that was never sent or is answered already."""
        if tag > self.sent or tag <= self.low or (not multiple and tag in self._above):
            raise WireError(f"confirm of {tag}, of {self.sent} sent and {self.low} answered")
        if not multiple and tag != self.low + 1:
            self._above.add(tag)
            return 1
        if multiple:
            early = {other for other in self._above if other <= tag}
            count = tag - self.low - len(early)
            self._above -= early
        else:
            count = 1
        self.low = tag
        while self._above and self.low + 1 in self._above:
            self.low += 1
            self._above.remove(self.low)
        return count
