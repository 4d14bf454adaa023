"""A stored request on its way: an exchange like any other, whose client is in this process.

So it runs through the same breaker, balancer, limits and tries, and is counted and logged as they are. What stands
where a client's socket would be keeps the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sidecar.core.limits import UNLIMITED
from sidecar.core.replies import ProtocolError
from sidecar.exchange.delivery import HEADER, Result, Stored
from sidecar.exchange.filter import Filter
from sidecar.exchange.routes import Route
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED
from sidecar.http.h1.head import parse_request
from sidecar.http.h1.lines import without
from sidecar.http.h1.server import Downstream

if TYPE_CHECKING:
    from sidecar.http.listener import HttpListener

#: What framing adds to a body, at most, and what comes before it: interim answers, and the head.
_SLACK: Final = 256 * 1024

_RETRY_AFTER: Final = re.compile(rb"\r\n(?i:retry-after):[ \t]*+([^\r]*)")


class Wire(asyncio.Transport):
    """Takes what would go to a client, as much as is to be kept."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: str, limit: int, done: Callable[[Wire, HttpExchange], None]
    ) -> None:
        super().__init__()
        self._loop = loop
        self._peer = peer
        self._limit = limit
        self._done = done
        self._closing = False
        self.client: Downstream | None = None
        self.data = bytearray()
        self.overflow = False

    def ended(self, x: HttpExchange) -> None:
        """The exchange is over. From the event loop, as it is still in the middle of its end."""
        self._loop.call_soon(self._done, self, x)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._peer, 0) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        room = self._limit - len(self.data)
        if len(data) > room:
            self.overflow = True
            data = data[: max(0, room)]
        self.data += data

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lost)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def write_eof(self) -> None:
        """Nothing waits for it."""

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0

    def pause_reading(self) -> None:
        """There is nothing more to read."""

    resume_reading = pause_reading

    def _lost(self) -> None:
        if self.client is not None:
            self.client.connection_lost(None)


def deliver(
    listener: HttpListener, request: Stored, max_body: int, longest: float, done: Callable[[Result], None]
) -> Callable[[], None]:
    """Send a stored request (:data:`sidecar.exchange.delivery.Deliver`). ``done`` is called later, unless what this
    returns is called before."""
    loop = listener.loop
    timer: asyncio.TimerHandle | None = None

    def ended(wire: Wire, x: HttpExchange) -> None:
        if timer is not None:
            timer.cancel()
        wire.close()
        done(_result(wire, x, max_body))

    def refused(result: Result) -> Callable[[], None]:
        handle = loop.call_soon(done, result)
        return handle.cancel

    if not request.head:
        return refused(Result(0, "corrupt", True, "it is not what was stored"))
    wire = Wire(loop, request.client, max_body + _SLACK, ended)
    client = Downstream(listener)
    wire.client = client
    # Nobody's connection: the bound of those that clients may have is not for it, that is the lane's concurrency.
    client.transport = wire
    client.ip = request.client
    try:
        x = _exchange(listener, client, request)
    except ProtocolError as error:
        wire.close()
        return refused(Result(0, error.code, True, str(error)))
    client.exchange = x
    listener.stats.active += 1

    def too_long() -> None:
        nonlocal timer
        if x.answer is None:
            timer = loop.call_later(longest, too_long)  # the tries have times of their own
        else:
            wire.overflow = True
            client.abort()

    def cancel() -> None:
        if timer is not None:
            timer.cancel()
        client.abort()

    timer = loop.call_later(longest, too_long)
    x.run()
    return cancel


def _exchange(listener: HttpListener, client: Downstream, request: Stored) -> HttpExchange:
    # It was measured when its client sent it. Since then fields of our own have come to it, and a reload may have
    # lowered the limits: neither may keep back what was acknowledged.
    head = parse_request(request.head, UNLIMITED, listener.host)
    # Behind the parser, which takes for a client's what it reads.
    head.add(HEADER, request.id.encode())
    # The route that it came by may have gone.
    route = listener.route(head)
    chain = route.chain.delivery or listener.chain.delivery
    assert chain is not None
    x = HttpExchange(client, listener, listener.pool, head, Route(chain, route.cluster), listener.clock())
    x.request_id = request.request_id
    size = len(request.body)
    if x.upload is None:
        complete = not size
    else:
        complete = x.upload.take_whole(request.body)
        x.count_in(size)
    if not complete:
        raise ProtocolError("the body is not what its framing says")
    x.request_done = True
    return x


def _result(wire: Wire, x: HttpExchange, max_body: int) -> Result:
    answer = x.answer
    if answer is None:
        result = Result(x.status, x.error, True)
        found = _RETRY_AFTER.search(wire.data)
        if found:
            result.retry_after = bytes(found[1])
        return result
    peers = answer.peer_error.decode("latin-1")
    result = Result(answer.status, x.error or peers, bool(x.error))
    if x.error:
        return result
    result.retry_after = answer.fields.get(b"retry-after", b"").strip(b" \t")
    result.head = _head(answer.raw)
    data = bytes(wire.data)
    start = 0
    while True:  # interim answers come before the one that counts
        start = data.find(b"\r\n\r\n", start) + 4
        if start == 3:
            result.whole = False
            return result
        if data.startswith(b"HTTP/1.1 1"):
            data = data[start:]
            start = 0
            continue
        break
    body = data[start:]
    if answer.length == CHUNKED:
        framing = Body(CHUNKED, decode=True)
        try:
            framing.feed(body)
        except ProtocolError:
            wire.overflow = True
        body = framing.decoded()
    result.whole = not wire.overflow and len(body) <= max_body
    result.body = body if result.whole else b""
    return result


def _head(raw: bytes) -> bytes:
    """An answer's status line and fields, without what is about framing."""
    for name in (b"content-length", b"transfer-encoding", b"connection", b"trailer", HEADER):
        raw = without(raw, name)
    return raw[:-2]


class Delivered(Filter):
    """The last filter of a chain for deliveries: says when one is over."""

    name: ClassVar[str] = "delivered"

    def on_end(self, x: HttpExchange) -> None:
        wire = cast(object, x.client.transport)
        if isinstance(wire, Wire):
            wire.ended(x)
