"""A request on its way to another upstream, whose answer takes the place of the one that its own cannot give.

It is a subrequest, whose client is an :class:`Aside`: that passes the answer on as it comes, or drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

from sidecar.core.replies import ProtocolError
from sidecar.exchange.phases import ANSWERING, ENDED, PENDING
from sidecar.http.ends import UpstreamEnd
from sidecar.http.h1.lines import without
from sidecar.http.mirror import is_copy
from sidecar.http.subrequest import SubrequestClient, begin, head_for
from sidecar.net.sockets import Pausable, undelivered

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.listener import HttpListener

#: Whether an answer is passed on: the code of a peer sidecar (empty: it is an app's), and the status.
Accept = Callable[[str, int], bool]


def detour(
    listener_of: Callable[[str], Any],
    name: str,
    x: HttpExchange,
    field: tuple[str, str],
    accept: Accept,
    failed: Callable[[str], None],
) -> Callable[[], None]:
    """Send the request of ``x``, which waits and is all at hand, to the upstream of that name. An answer that is
    accepted becomes the answer to ``x``, with ``field`` beside its own. Else ``failed`` is told why, later, unless what
    this returns is called before. Raises :class:`ProtocolError` with the reason when it cannot be sent there."""
    listener: HttpListener | None = listener_of(name)
    if listener is None:
        raise ProtocolError("there is no such upstream")
    if is_copy(x):
        raise ProtocolError("a copy goes nowhere else: it would be done twice there, and nobody wants its answer")
    head = head_for(listener, x)
    if x.granted != inf:  # what its caller left for it, less what it has had of that
        head.granted = x.started + x.granted - x.listener.clock()
        if head.granted <= 0.0:
            raise ProtocolError("its caller has no time left for it")
    aside = Aside(listener, x, field, accept, failed)
    y = begin(aside, x, head)
    y.version = x.version
    y.keep_client = x.keep_client and not x.listener.draining
    listener.stats.active += 1
    y.run()
    return aside.cancel


class Aside(SubrequestClient):
    """The client of that other exchange. ``x`` is the exchange that its answer is for."""

    __slots__ = ("_accept", "_failed", "_field", "_why", "dropped", "passing", "x")

    def __init__(
        self,
        listener: HttpListener,
        x: HttpExchange,
        field: tuple[str, str],
        accept: Accept,
        failed: Callable[[str], None],
    ) -> None:
        SubrequestClient.__init__(self, listener, x.client_ip)
        self.x = x
        self.paused_writing = x.client.paused_writing
        #: The answer is passed on; or it is not, and why.
        self.passing = False
        self.dropped = False
        self._why = ""
        self._field = f"{field[0]}: {field[1]}\r\n".encode("latin-1")
        self._accept = accept
        self._failed: Callable[[str], None] | None = failed

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        self._failed = None
        y = self.exchange
        if y is not None:
            y.client_gone()

    # -- the end of an exchange's client -------------------------------------------------------------------------------

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        y = self.leave()
        x = self.x
        if not self.passing:
            self._lost(self._why or (y.error if y is not None else "") or "it gave no answer")
        elif x.phase != ENDED:
            x.keep_client = keep and x.keep_client
            if y is not None and y.error:
                x.error = y.error
                x.abort()
            else:
                x.finish()

    def abort(self) -> None:
        y = self.leave()
        x = self.x
        if not self.passing:
            self._lost(self._why or (y.error if y is not None else "") or "its answer broke off")
        elif x.phase != ENDED:
            x.error = (y.error if y is not None else "") or "upstream_reset"
            x.abort()

    def leave(self) -> HttpExchange | None:
        y = SubrequestClient.leave(self)
        if y is not None:
            self.listener.stats.active -= 1
        return y

    def _lost(self, why: str) -> None:
        failed = self._failed
        self._failed = None
        if failed is not None:
            self.x.listener.loop.call_soon(failed, why)  # the other exchange is in the middle of its end

    # -- the transport that its answer is written to -------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """A part of the answer. The first has the whole head."""
        x, y = self.x, self.exchange
        if y is None or self.dropped or x.phase == ENDED:
            return
        if self.passing:
            x.client.transport.write(data)
            x.count_out(len(data))
            x.touched = x.listener.clock()
        elif y.error:
            self._why = y.error
            self.dropped = True
        elif not (data.startswith(b"HTTP/1.1 1") and y.status < 200):  # interim answers are of no use here
            code = y.answer.peer_error.decode("latin-1") if y.answer is not None else ""
            if x.phase == PENDING and self._accept(code, y.status):
                self.relay_answer(x, y, data)
            else:
                self.dropped = True
                self._why = f"it answered {code or y.status}"
                self.listener.loop.call_soon(self.cut)

    def relay_answer(self, x: HttpExchange, y: HttpExchange, data: bytes) -> None:
        """Its head is the head of the answer."""
        self.passing = True
        end = data.index(b"\r\n\r\n") + 4
        name = self._field.partition(b":")[0]
        head = without(data[:end], name)[:-2] + self._field + b"\r\n"
        x.phase = ANSWERING
        x.status = y.status
        x.answer = y.answer
        x.relay = Relay(self)
        x.touched = x.head_at = x.listener.clock()
        x.client.transport.write(head + data[end:])
        x.count_out(len(data) - end)
        x.check_idle(x.touched)

    def get_write_buffer_size(self) -> int:
        """What the client has still to read."""
        return undelivered(self.x.client.transport) if self.passing else 0


class Relay(UpstreamEnd):
    """What stands for the connection of an attempt while the answer of another upstream is passed on."""

    __slots__ = ("_aside",)

    def __init__(self, aside: Aside) -> None:
        Pausable.__init__(self)
        self.transport = cast(asyncio.Transport, self)
        self.exchange = None
        self.reused = False
        self.buffer = b""
        self._aside = aside

    def pause_reading(self) -> None:
        """The client does not read."""
        aside = self._aside
        aside.paused_writing = True
        y = aside.exchange
        conn = y.conn if y is not None else None
        if conn is not None:
            conn.pause_reading()

    def resume_reading(self) -> None:
        aside = self._aside
        aside.paused_writing = False
        y = aside.exchange
        conn = y.conn if y is not None else None
        if conn is not None:
            conn.resume_reading()

    def close(self) -> None:
        """The filter that has sent the request away ends that."""

    def finish(self) -> None:
        """Likewise."""

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0
