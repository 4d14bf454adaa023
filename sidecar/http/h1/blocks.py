"""Heads as the blocks of lines that they came as, and go on as."""

from __future__ import annotations

from math import inf

from sidecar.exchange.message import RequestHead, ResponseHead
from sidecar.http.h1.lines import Fields, without, without_those


class RequestBlock(RequestHead):
    """A request's head as lines. ``raw`` is what goes on: the received bytes less hop-by-hop fields; and ``added`` are
    lines behind all of its others. The ``length`` may be :data:`CHUNKED`. ``version`` is the minor one that the client
    speaks; ``size`` is the head's as it came."""

    __slots__ = ("added", "keep_alive", "raw", "size", "version")

    def __init__(self, raw: bytes, method: str, target: bytes, version: int, fields: Fields) -> None:
        self.raw = raw
        self.added = b""
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.keep_alive = version == 1
        self.length = 0
        self.upgrade = b""
        self.expects_continue = False
        self.asks_load = False
        self.granted = inf
        self.request_id = ""
        self.trace_flags = -1
        self.size = 0

    def get(self, name: bytes) -> bytes | None:
        if name in self.fields:
            return self.fields[name].strip(b" \t")
        raw = self.as_http1()
        begin = b"\r\n" + name + b":"
        at = raw.lower().find(begin)
        return raw[at + len(begin) : raw.index(b"\r\n", at + 2)].strip(b" \t") if at >= 0 else None

    def add(self, name: bytes, value: bytes) -> None:
        self.add_line(b"".join((name, b": ", value, b"\r\n")))

    def add_line(self, line: bytes) -> None:
        self.added = self.added + line if self.added else line

    def put_first(self, name: bytes, value: bytes) -> None:
        raw = self.raw
        start = raw.index(b"\r\n") + 2
        self.raw = b"%b%b: %b\r\n%b" % (raw[:start], name, value, raw[start:])

    def remove(self, name: bytes) -> None:
        self.raw = without(self.as_http1(), name)
        self.fields.pop(name, None)
        self.request_id = ""
        self.trace_flags = -1

    def as_http1(self) -> bytes:
        if self.added:
            self.raw = b"".join((self.raw[:-2], self.added, b"\r\n"))
            self.added = b""
        return self.raw

    def ending_in(self, end: bytes) -> bytes:
        return self.raw[:-2] + self.added + end


class ResponseBlock(ResponseHead):
    """An answer's head; attributes as in :class:`RequestBlock`. ``length`` may also be :data:`UNTIL_CLOSE`."""

    __slots__ = ("keep_alive", "raw", "size")

    def __init__(self, raw: bytes, status: int, fields: Fields, length: int, keep_alive: bool) -> None:
        self.raw = raw
        self.status = status
        self.fields = fields
        self.length = length
        self.keep_alive = keep_alive
        self.size = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.raw = b"".join((self.raw[:-2], name, b": ", value, b"\r\n\r\n"))

    def take(self, name: bytes, begin: bytes) -> bytes | None:
        self.raw, value = without_those(self.raw, name, begin)
        return value

    def as_http1(self) -> bytes:
        return self.raw
