"""A subrequest: one that the sidecar itself sends to one of its upstreams, with what a client's request has brought.

There it is an exchange like any other, with that port's routes, filters, breaker, tries and times, and is counted and
logged there. Its client is in this process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from sidecar.core.limits import UNLIMITED
from sidecar.core.replies import ProtocolError
from sidecar.http.ends import ClientEnd
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.blocks import RequestBlock
from sidecar.http.h1.head import parse_request
from sidecar.net.sockets import Pausable

if TYPE_CHECKING:
    from sidecar.http.listener import HttpListener


class SubrequestClient(ClientEnd):
    """The client of a subrequest at that listener, and the transport that its answer is written to. Heirs say what
    becomes of that."""

    __slots__ = ("listener",)

    def __init__(self, listener: HttpListener, ip: str) -> None:
        Pausable.__init__(self)
        self.transport = cast(asyncio.Transport, self)
        self.listener = listener
        self.exchange = None
        self.ip = ip
        self.half_closed = False
        self.paused_writing = False
        self.timer = listener.wheel.timer(self._on_timer)

    def _on_timer(self) -> None:
        y = self.exchange
        if y is not None:
            y.check_timer(y.listener.clock())

    def leave(self) -> HttpExchange | None:
        """The exchange has ended; return what it was."""
        y = self.exchange
        self.exchange = None
        self.timer.close()
        return y

    def cut(self) -> None:
        """The rest of the answer is not wanted. Called from the event loop: whoever writes it is in the middle of
        that."""
        y = self.exchange
        if y is not None:
            y.abort()

    # -- the end of an exchange's client -------------------------------------------------------------------------------

    def take_buffer(self) -> bytes:
        return b""

    def pause_reading(self) -> None:
        """There is nothing more to read."""

    def resume_reading(self) -> None:
        """Likewise."""

    # -- the transport -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """A part of the answer. The first has the whole head."""
        raise NotImplementedError

    def close(self) -> None:
        """It is closed when it is over."""

    def is_closing(self) -> bool:
        return self.exchange is None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.ip, 0) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0


def head_for(listener: HttpListener, x: HttpExchange) -> RequestBlock:
    """The head of a subrequest at that listener: that of ``x``, which was measured when its client sent it. Since then
    fields of our own have come to it."""
    head = parse_request(x.head.as_http1(), UNLIMITED, listener.host)
    head.remove(b"expect")  # the body is here
    return head


def begin(client: SubrequestClient, x: HttpExchange, head: RequestBlock) -> HttpExchange:
    """The exchange of that client, which has the body of ``x``, all of it, and is yet to run. Raises
    :class:`ProtocolError` with the reason when it cannot be sent there."""
    listener = client.listener
    body = x.body_so_far()
    limit = listener.limits.body
    if limit and len(body) > limit:
        raise ProtocolError(f"its request bodies are at most {limit} bytes")
    y = HttpExchange(client, listener, listener.pool, head, listener.route(head), listener.clock())
    if y.upload is not None and not y.upload.take_whole(body):
        client.timer.close()
        raise ProtocolError("the request's body is not what its framing says")
    y.count_in(len(body))
    y.request_done = True
    client.exchange = y
    return y
