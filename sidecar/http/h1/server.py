"""The client's end of an HTTP/1.1 connection: heads in, one exchange at a time, answers out in order."""

from __future__ import annotations

import asyncio
import re
from math import inf
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.replies import ProtocolError, Reply, render
from sidecar.exchange.phases import ANSWERING, TUNNEL
from sidecar.exchange.silence import LOOKS
from sidecar.http.ends import ClientEnd
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.diagnose import given_id, head_too_large, hopeless
from sidecar.http.h1.half_close import HalfClose
from sidecar.http.h1.head import begun_request, parse_request
from sidecar.http.h1.scanner import end_of_head
from sidecar.http.tunnel import closed, from_client
from sidecar.http.upload import show
from sidecar.net.sockets import Pausable, reset, undelivered

if TYPE_CHECKING:
    from sidecar.http.listener import HttpListener

#: Pipelined bytes that are held while an answer is under way; with more, the client is not read from.
PIPELINE_LIMIT: Final = 65536
#: How long a closed connection is still read from, so that a client that is busy sending sees the answer and not a
#: reset (RFC 9112 §9.6): while it sends, and without a byte. Many clients look for an answer only when they have sent
#: everything; what they send costs a read, and is dropped.
LINGER_SECONDS: Final = 30.0
LINGER_SILENCE: Final = 2.0
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")


class Downstream(ClientEnd):
    """One accepted connection. ``closing``: no more requests are taken from it."""

    __slots__ = (
        "_begun", "_buffer", "_linger_until", "_parsing", "_quiet_since", "_undrained",
        "closing", "idle_since", "listener", "probe",
    )  # fmt: skip

    def __init__(self, listener: HttpListener) -> None:
        Pausable.__init__(self)
        self.listener = listener
        self.exchange = None
        self.ip = ""
        self.closing = False
        self.half_closed = False
        #: The listener's time since when there has been no exchange.
        self.idle_since = 0.0
        self.paused_writing = False
        #: What has arrived but was not used yet: pipelined requests, or the beginning of a head. Of the latter, how
        #: many bytes were looked at (0: it is not that).
        self._buffer = b""
        self._begun = 0
        self._parsing = False
        self._linger_until = 0.0
        #: Between exchanges: since when nothing has come, and nothing was read; and what there was left to read.
        self._quiet_since = 0.0
        self._undrained = 0
        self.probe: HalfClose | None = None
        self.timer = listener.wheel.timer(self._on_timer)

    @property
    def idle(self) -> bool:
        """No exchange is under way, and no part of a head is here."""
        return self.exchange is None and not self._buffer

    @property
    def flushed(self) -> bool:
        """The kernel has everything that was written."""
        return not self.transport.get_write_buffer_size()

    # -- asyncio's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.ip = peer[0] if peer else ""
        if not self.listener.admit(self):
            return
        self.rested(self.listener.clock())

    def data_received(self, data: bytes) -> None:
        x = self.exchange
        if x is None:
            if self.closing:
                self._linger()
                return
            if self.paused_writing:
                self._hold(data)  # the client does not read its answers: no more of them for now
                return
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            elif self.listener.quick is not None and self.listener.quick.answers(self, data):
                return
            self._parse(data)
        elif x.phase == TUNNEL:
            from_client(x, data)
        elif x.request_done or x.upload is None:
            self._hold(data)
        else:
            try:
                rest = x.upload.take(x, data)
            except ProtocolError as error:
                self._bad_body(x, error)
                return
            if rest:
                self._hold(rest)

    def eof_received(self) -> bool:
        self.half_closed = True
        x = self.exchange
        if x is None:
            # Requests that are held are still answered; without any there is nothing left to do.
            return bool(self._buffer) and not self._begun and not self.closing
        if x.phase == TUNNEL:
            closed(x, by_client=True)
            return True
        if not x.request_done or self._has_left(x):
            x.client_gone()
            return False
        if not self._buffer:
            x.keep_client = False
        self._watch_half_closed()
        return True

    def _has_left(self, x: HttpExchange) -> bool:
        """Whether a client that has finished sending is taken to be gone. Before its answer begins it can be asked
        (:class:`HalfClose`), unless it speaks HTTP/1.0; and the answer's head asks again. In the middle of an answer
        there is nothing to ask with, and a quiet stream would go on for nobody."""
        return (x.phase == ANSWERING or x.version == 0) and not self.listener.limits.half_close

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.timer.close()
        self._stop_probe()
        self._buffer = b""
        x = self.exchange
        if x is not None:
            x.client_gone()
        self.listener.left(self)

    def pause_writing(self) -> None:
        self.paused_writing = True
        x = self.exchange
        conn = x.conn if x is not None else None
        if conn is not None:
            conn.pause_reading()

    def resume_writing(self) -> None:
        self.paused_writing = False
        x = self.exchange
        conn = x.conn if x is not None else None
        if conn is not None and x is not None:
            if x.download is None or x.download.resumed():
                conn.resume_reading()
        elif x is None:
            self.resume_reading()
            self._next()

    # -- heads -----------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Begin exchanges for the heads in ``data``. An exchange that ends at once is followed by the next head in
        this same loop, so that a pipeline of refused requests costs no stack."""
        self._parsing = True
        try:
            while data:
                data = self._begin(data)
                if self.exchange is not None or self.closing or self.paused_writing:
                    break
        finally:
            self._parsing = False
        if data and not self.closing:
            self._hold(data)
        elif self.half_closed and self.exchange is None:
            self.close()

    def _begin(self, data: bytes) -> bytes:
        """Begin the exchange whose head ``data`` starts with; what is left of ``data``. Without a whole head, keep
        the beginning and wait."""
        listener = self.listener
        if data[0] == 0x0D and (blank := _EMPTY_LINES.match(data)):
            self._begun = 0
            return data[blank.end() :]  # RFC 9112 §2.2: empty lines before a request are ignored
        # What comes in pieces is not read again from its beginning with each of them.
        head = None if self._begun else begun_request(data, listener.limits)
        end = end_of_head(data, self._begun) if head is None else head.size
        if not end:
            self._partial(data)
            return b""
        self._begun = 0
        early = b""
        raw, rest = (data, early) if end == len(data) else (data[:end], data[end:])
        try:
            if head is None:
                head = parse_request(raw, listener.limits, listener.host)
            route = listener.default_route if listener.routes is None else listener.route(head)
            x = HttpExchange(self, listener, listener.pool, head, route, listener.clock())
            if x.upload is not None:
                if (limit := listener.limits.body) and head.length > limit:
                    raise ProtocolError(f"the request body is larger than {limit} bytes", "body_too_large")
                if rest:
                    rest = x.upload.take(x, rest)
                    if x.chain.on_body:
                        early = x.body_so_far()
        except ProtocolError as error:
            self.refuse(error, raw)  # before it became an exchange: no filter and no upstream has seen it
            return b""
        if self.half_closed:
            if not x.request_done or self._has_left(x):
                self.close()  # the rest will never come, or nobody is there
                return b""
            if not rest:
                x.keep_client = False
            self._watch_half_closed()
        self.exchange = x
        listener.stats.active += 1
        x.run(x.started)
        if early and x.client.exchange is x:  # compiled, self.exchange counts as what it was set to above
            show(x, early)
        elif listener.quick is not None:
            listener.quick.learn(raw, x)
        return rest

    def _partial(self, data: bytes) -> None:
        limits = self.listener.limits
        if len(data) > limits.head:
            self.refuse(head_too_large(limits.head), data)
        elif hopeless(data, self._begun):
            self.refuse(ProtocolError("a control byte, or a bare CR or LF, in the request head"), data)
        elif self.half_closed:
            self.close()  # the rest will never come
        else:
            if not self._begun:
                timeout = self.listener.timeout.head
                if timeout:
                    self.timer.set(self.listener.clock() + timeout)
            self._begun = len(data)
            self._buffer = data

    def _hold(self, data: bytes) -> None:
        """Pipelined bytes: keep them for when the answer is out (RFC 9112 §9.3.2)."""
        self._buffer += data
        if len(self._buffer) > PIPELINE_LIMIT:
            self.pause_reading()

    def take_buffer(self) -> bytes:
        self._begun = 0
        data = self._buffer
        self._buffer = b""
        return data

    # -- ends ------------------------------------------------------------------------------------------------------
    def refuse(self, error: ProtocolError, data: bytes) -> None:
        """Answer ``data``, which could not be parsed, and close: where the next message would begin is a guess."""
        listener = self.listener
        request_id = given_id(data) or listener.new_request_id()
        listener.refused(error.code, str(error), request_id, self.ip, data)
        self.transport.write(render(Reply(error.code, str(error)), listener.name, request_id, close=True))
        self.close_gently()

    def _bad_body(self, x: HttpExchange, error: ProtocolError) -> None:
        x.keep_client = False
        if x.phase == ANSWERING:
            x.note("refused", {"code": error.code, "message": str(error)})
            x.error = error.code
            x.abort()
        else:
            x.reply(Reply(error.code, str(error)))

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        self.exchange = None
        if self.probe is not None:
            self._stop_probe()
        self.listener.stats.active -= 1
        if self.closing:
            return
        if not keep:
            if unread:
                self.close_gently()
            else:
                self.close()
            return
        if self.reading_paused:
            self.resume_reading()
        self.rested(now)
        if self._buffer and not self._parsing and not self.paused_writing:
            # From the event loop: the upstream's data_received, or a timer, is below us on the stack.
            self.listener.loop.call_soon(self._next)
        elif self.listener.draining and not self._buffer and not self._parsing:
            self.close()

    def _next(self) -> None:
        if self.exchange is None and self._buffer and not self._begun and not self.closing and not self.paused_writing:
            self._parse(self.take_buffer())

    def close(self) -> None:
        """Close once everything written is out. A client that does not read it has ``timeout.idle`` for that. One that
        is still read from only so that it sees its answer makes room for others, but is not cut by a drain."""
        if self._linger_until and not self.listener.draining:
            self.transport.abort()
        elif not self.closing:
            self.closing = True
            self._buffer = b""
            self.rested(self.listener.clock())
            self.transport.close()

    def abort(self) -> None:
        x = self.exchange
        if x is not None:  # nothing happens when this came from its end
            if x.status:
                x.abort()  # it was not the client that left in the middle of its answer
            else:
                x.client_gone()
        if self.exchange is not None:
            self.exchange = None
            self.listener.stats.active -= 1
        self._stop_probe()
        self.closing = True
        self.timer.cancel()
        reset(self.transport)

    def close_gently(self) -> None:
        """Stop sending, and read on for a moment what the client is still sending."""
        if self.half_closed:
            self.close()
            return
        self.closing = True
        self._buffer = b""
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.resume_reading()
        now = self.listener.clock()
        self._linger_until = now + LINGER_SECONDS
        self._quiet_since = now
        self._undrained = 0
        self.timer.set(now + LINGER_SILENCE)

    def _linger(self) -> None:
        self.timer.set(min(self.listener.clock() + LINGER_SILENCE, self._linger_until))

    # -- flow and time ---------------------------------------------------------------------------------------------

    def rested(self, now: float) -> None:
        """There is no exchange, since ``now``."""
        idle = self.listener.default_route.chain.timeout.idle
        self.idle_since = now
        if idle:
            self._quiet_since = now
            self._undrained = 0
            self.timer.set(now + idle / LOOKS)
        else:
            self.timer.cancel()

    def _on_timer(self) -> None:
        x = self.exchange
        if x is not None:
            x.check_timer(self.listener.clock())
        elif self._begun and not self.closing:
            self.refuse(ProtocolError("the request head was not complete in time"), self._buffer)
        elif self._may_stay():
            pass
        elif self.closing:
            self.transport.abort()
        else:
            self.close()

    def _may_stay(self) -> bool:
        """Whether the client's time without an exchange is not over yet, and then the timer is set again. As long as it
        reads the rest of its last answer it is not idle; see :meth:`Exchange.check_idle`."""
        listener = self.listener
        idle = listener.default_route.chain.timeout.idle
        now = listener.clock()
        left = undelivered(self.transport)
        if self._linger_until and not left:
            return False
        look = idle / LOOKS if idle else LINGER_SILENCE
        if left < self._undrained - listener.limits.body_rate * look:
            self._quiet_since = now
        self._undrained = left
        due = self._quiet_since + idle if idle else inf
        if now >= due:
            return False
        self.timer.set(min(due, now + look) if left else due)
        return True

    def _watch_half_closed(self) -> None:
        if self.probe is None:
            self.probe = HalfClose(self)

    def _stop_probe(self) -> None:
        if self.probe is not None:
            self.probe.cancel()
            self.probe = None
