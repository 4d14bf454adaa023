"""Comments in an event stream that is silent, so that nobody on its way takes it for dead.

A line that begins with a colon is a comment, which every client ignores (HTML Living Standard §9.2.6).
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.cache.fields import values
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED

COMMENT: Final = b": heartbeat\n\n"
_AS_CHUNK: Final = b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT)
#: How the text ends behind a whole event: with an empty line, whatever ends its lines.
_WHOLE: Final = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")


class EventStream:
    """Where in the stream its client is, by what has gone to it."""

    __slots__ = ("_body", "_tail")

    def __init__(self, chunked: bool) -> None:
        self._body = Body(CHUNKED, decode=True, lenient=True) if chunked else None
        self._tail = b"\n\n"

    def take(self, data: bytes) -> bytes:
        """More goes to the client; return the stream's text in it, without chunks."""
        if self._body is not None:
            self._body.feed(data)
            data = self._body.decoded()
        self._tail = (self._tail + data)[-3:]
        return data

    @property
    def between(self) -> bool:
        """Whether what has gone ends with a whole event, and with a whole chunk where there are such."""
        return self._tail.endswith(_WHOLE) and (self._body is None or self._body.between)

    def blocked(self, x: HttpExchange) -> bool:
        """Whether the client has so much to read that nothing is read from the server."""
        return x.client.paused_writing

    def beat(self, x: HttpExchange) -> bool:
        """Send a comment, if one may stand here and the client reads; return whether it was sent."""
        if not self.between or self.blocked(x):
            return False
        data = COMMENT if self._body is None else _AS_CHUNK
        x.client.transport.write(data)
        x.count_out(len(data))
        return True


def event_stream(x: HttpExchange, head: Any) -> EventStream | None:
    """The stream that the answer with that head is; ``None``: it is none, or one into which nothing can be put."""
    if head.length >= 0 or x.method == "HEAD":
        return None
    raw = head.as_http1()
    kinds, codings = values(raw, b"content-type"), values(raw, b"content-encoding")
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip(b" \t").lower() != b"text/event-stream":
        return None
    if any(it.lower() != b"identity" for it in codings):
        return None
    return EventStream(head.length == CHUNKED and x.version != 0)
