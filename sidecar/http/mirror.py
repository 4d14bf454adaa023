"""A copy of a request on its way to another upstream, whose answer nobody wants.

There it is an exchange like any other, with that port's routes, filters, breaker, tries and times, and is counted and
logged there. Its client is in this process: a :class:`CopyEnd`, which takes the answer as it comes and drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.http.ends import ClientEnd
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.head import parse_request
from sidecar.net.sockets import Pausable

if TYPE_CHECKING:
    from sidecar.http.listener import HttpListener

#: The field that a copy has beside those of the original: the id of that. Its own is another one. It ends at the next
#: sidecar, as all of ours do that a client could send.
FIELD: Final = b"x-sidecar-mirrored"
#: Bytes of an answer that are taken, so that its connection can be kept; then it is cut off.
MOST_ANSWER: Final = 1024 * 1024
#: The head was measured when the client sent it; fields of our own have come to it since.
_UNLIMITED: Final = Limits(head=1 << 31, headers=1 << 31, target=1 << 31, body=0)

#: Is told once how a copy ended: its status (0: none), and our own code if the answer was ours.
Done = Callable[[int, str], None]


def copy(listener_of: Callable[[str], Any], name: str, x: HttpExchange, done: Done) -> None:
    """Send a copy of the request of ``x``, which is over and was all at hand, to the upstream of that name. ``done`` is
    told of its end, be it at once. It holds up no drain. Raises :class:`ProtocolError` with the reason when it cannot
    be sent there."""
    listener: HttpListener | None = listener_of(name)
    if listener is None or listener.draining:
        raise ProtocolError("there is no such upstream any more")
    head = parse_request(x.head.as_http1(), _UNLIMITED, listener.host)
    for field in (b"expect", b"x-request-id", FIELD):
        head.remove(field)
    head.add(FIELD, x.request_id.encode("latin-1"))
    head.granted = inf
    body = x.body_so_far()
    limit = listener.limits.body
    if limit and len(body) > limit:
        raise ProtocolError(f"its request bodies are at most {limit} bytes")
    end = CopyEnd(listener, x.client_ip, done)
    y = HttpExchange(end, listener, listener.pool, head, listener.route(head), listener.clock())
    if y.upload is not None and not y.upload.take_whole(body):
        end.timer.close()
        raise ProtocolError("the request's body is not what its framing says")
    y.count_in(len(body))
    y.request_done = True
    end.exchange = y
    y.run()


def is_copy(x: HttpExchange) -> bool:
    """Whether an exchange is such a copy: of those there are no others."""
    return isinstance(x.client, CopyEnd)


class CopyEnd(ClientEnd):
    """The client of a copy, and its transport."""

    __slots__ = ("_done", "_left", "listener")

    def __init__(self, listener: HttpListener, ip: str, done: Done) -> None:
        Pausable.__init__(self)
        self.transport = cast(asyncio.Transport, self)
        self.listener = listener
        self.exchange = None
        self.ip = ip
        self.half_closed = False
        self.paused_writing = False
        self.timer = listener.wheel.timer(self._on_timer)
        self._left = MOST_ANSWER
        self._done = done

    def _on_timer(self) -> None:
        y = self.exchange
        if y is not None:
            y.check_timer(y.listener.clock())

    # -- the end of an exchange's client -------------------------------------------------------------------------------

    def take_buffer(self) -> bytes:
        return b""

    def pause_reading(self) -> None:
        """There is nothing more to read."""

    def resume_reading(self) -> None:
        """Likewise."""

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        self._over()

    def abort(self) -> None:
        self._over()

    def _over(self) -> None:
        y = self.exchange
        self.exchange = None
        self.timer.close()
        if y is not None:
            self._done(y.status, y.error)

    # -- the transport that its answer is written to -------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """A part of the answer: it is dropped, and what would be too much of it does not come."""
        before = self._left
        self._left = before - len(data)
        if self._left < 0 <= before:
            self.listener.loop.call_soon(self._cut)

    def _cut(self) -> None:
        y = self.exchange
        if y is not None:
            y.abort()

    def close(self) -> None:
        """It is closed when it is over."""

    def is_closing(self) -> bool:
        return self.exchange is None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.ip, 0) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0
