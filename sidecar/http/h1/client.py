"""The upstream's end of an HTTP/1.1 connection: requests out, answers in; kept between them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.replies import ProtocolError
from sidecar.exchange.phases import ANSWERING, SENT, TUNNEL
from sidecar.http.ends import UpstreamEnd
from sidecar.http.h1.diagnose import hopeless_answer
from sidecar.http.h1.head import begun_response, is_switch, parse_response
from sidecar.http.h1.scanner import end_of_head
from sidecar.http.tunnel import closed, from_upstream
from sidecar.net.sockets import Pausable, keep_alive, unread

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.pool import Pool

#: How long the last bytes of a tunnel may take to be read.
FLUSH_SECONDS: Final = 60.0


class Upstream(UpstreamEnd):
    """One connection to an endpoint."""

    __slots__ = (
        "endpoint", "gone", "idle_since", "made", "pool", "task", "timer", "tunnel",
    )  # fmt: skip

    def __init__(self, pool: Pool, exchange: HttpExchange, attempt: Attempt) -> None:
        Pausable.__init__(self)
        self.pool = pool
        self.endpoint = attempt.endpoint
        self.exchange = exchange
        self.attempt = attempt
        #: The task that opens it.
        self.task: asyncio.Task[None] | None = None
        self.buffer = b""
        self.reused = False
        self.idle_since = 0.0
        #: The connection stands, and is counted; until it is gone, and counted out.
        self.made = False
        self.gone = False
        #: It has left HTTP: :meth:`Pool.upgraded`.
        self.tunnel = False
        self.timer = pool.wheel.timer(self._expired)

    def chosen(self, endpoint: Endpoint) -> None:
        """Another address of the same name was quicker."""
        self.endpoint = endpoint
        x = self.exchange
        if x is not None and self.attempt.connecting is self.task:
            x.moved(self.attempt, endpoint)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hands itself to the exchange at once, before anything that the upstream might say."""
        self.transport = cast(asyncio.Transport, transport)
        x = self.exchange
        if x is None or self.attempt.connecting is not self.task:
            self.close()  # nobody waits for it any more
            return
        keep_alive(self.transport)
        self.made = True
        self.task = None
        self.pool.stats.upstream_active += 1
        self.attempt.connecting = None
        x.connected(self.attempt, self, self.pool.clock())

    def data_received(self, data: bytes) -> None:
        x = self.exchange
        if x is None:
            self.close()  # nobody asked: whatever this is, it must not become somebody's answer
            return
        phase = x.phase
        if phase == SENT:
            seen = 0
            if self.buffer:
                seen = len(self.buffer)
                data = self.buffer + data
                self.buffer = b""
            limits = self.pool.limits
            while data:
                head = None if seen else begun_response(data, limits, x.method)
                if head is not None:
                    rest = data[head.size :]
                else:
                    end = end_of_head(data, seen)
                    if not end:
                        self._partial(x, data, seen)
                        return
                    seen = 0
                    try:
                        head = parse_response(data[:end], limits, x.method, self.endpoint.sidecar)
                        if head.status == 101 and not is_switch(head, x.head.upgrade):
                            raise ProtocolError("a protocol switch that nobody asked for", "bad_upstream")
                    except ProtocolError as error:
                        x.malformed(self.attempt, error)
                        return
                    rest = data[end:]
                if head.status >= 200 or head.status == 101:
                    x.answered(self.attempt, self, head, rest)
                    return
                x.interim(self.attempt, head)
                if self.exchange is None:
                    return
                data = rest
        elif phase == ANSWERING:
            if x.download is not None:
                x.download.take(x, self.attempt, self, data)
        elif phase == TUNNEL:
            from_upstream(x, data)

    def _partial(self, x: HttpExchange, data: bytes, seen: int) -> None:
        """Keep the beginning of a head, of which so much was looked at before."""
        if len(data) > self.pool.limits.head:
            self._malformed(x, "the answer's head is too large")
        elif hopeless_answer(data, seen):
            self._malformed(x, "the upstream's answer is not valid HTTP")
        else:
            self.buffer = data

    def _malformed(self, x: HttpExchange, what: str) -> None:
        x.malformed(self.attempt, ProtocolError(what, "bad_upstream"))

    def eof_received(self) -> bool:
        x = self.exchange
        if x is not None and x.phase == TUNNEL:
            closed(x, by_client=False)
            return True
        # Not by close(), which would first try to get rid of a request that nobody reads any more.
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.close()
        x = self.exchange
        if exc is not None and x is not None and self.made and x.phase in (SENT, ANSWERING):
            # An answer that came before all of the request was read, and then a reset for the rest (RFC 9112 §9.5).
            for data in unread(self.transport):
                if self.exchange is not None:
                    self.data_received(data)
        if not self.made or self.gone:
            return
        self.gone = True
        self.pool.lost(self)
        x = self.exchange
        if x is not None:
            self.exchange = None
            # A write fails with EPIPE when the upstream had closed in an orderly way before.
            x.lost(self.attempt, self, cleanly=exc is None or isinstance(exc, BrokenPipeError))

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.client.pause_reading()

    def resume_writing(self) -> None:
        x = self.exchange
        if x is not None:
            x.client.resume_reading()
            if x.upload is not None:
                x.upload.resumed(x)

    def close(self) -> None:
        """Leave the exchange and close; what was written but not sent is dropped, nobody waits for it. It is counted
        out at once, not when the loop comes to it: whoever is let in next needs the room."""
        self.exchange = None
        if self.made and not self.gone:
            self.gone = True
            self.pool.lost(self)
        self.transport.abort()

    def finish(self) -> None:
        """Leave the exchange and close once everything written is out, or nobody has read it for too long."""
        self.exchange = None
        self.timer.set(self.pool.clock() + FLUSH_SECONDS)
        self.transport.close()

    def _expired(self) -> None:
        if self.exchange is None:
            self.close()
