"""One client of the admin API: its requests in, one at a time, and the answers out.

Heads and bodies are read by the parsers of HTTP ports, so they are as strict here. The rest is as little as scrapers,
probes, browsers and command lines need: keep-alive, bodies of a few bytes, streams. A library that does all of HTTP
took 10 MiB of a process that may stand a hundred times on one host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

import orjson

from sidecar.admin.message import Gone, Reply, Request, Unreadable, connection_lines, render_head
from sidecar.core.limits import Limits
from sidecar.core.operations import Broken, Stream
from sidecar.core.replies import ProtocolError
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED
from sidecar.http.h1.head import RequestBlock, hopeless, parse_request

logger = logging.getLogger("sidecar.admin")

LIMITS: Final = Limits(head=16384)
#: The largest body that anybody needs to send, bytes.
MAX_BODY: Final = 4096
#: Bytes behind a request that are kept for later.
PIPELINED: Final = 65536
#: Scrapers, which come every 15 to 60 seconds, keep their connections.
KEEPALIVE_SECONDS: Final = 75.0
#: How long a stream waits for someone to read on, seconds, at most.
STREAM_SECONDS: Final = 60.0
#: How long a client may go on to send what nobody reads, so that it sees why, seconds.
LINGER_SECONDS: Final = 1.0

Serve = Callable[[Request], Awaitable[Reply]]


class Connection(asyncio.Protocol):
    """One connection. ``serve`` answers each request and raises nothing. ``answered`` is told when all of an answer is
    on its way, ``gone`` when the connection is."""

    def __init__(
        self, serve: Serve, answered: Callable[[Connection], None], gone: Callable[[Connection], None]
    ) -> None:
        #: None before the connection is made, and after it.
        self.transport: asyncio.Transport | None = None
        self.client: str | None = None
        #: What answers the request that is under way.
        self.task: asyncio.Task[None] | None = None
        self._serve = serve
        self._answered = answered
        self._gone = gone
        self._buffer = b""
        #: So much of the buffer is a good beginning of a head.
        self._good = 0
        self._head: RequestBlock | None = None
        self._body = Body(0)
        self._received = b""
        self._trouble: Exception | None = None
        #: Waits for the body; waits until what was written is read.
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False
        self._ending = False
        self._half_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0

    # -- from the event loop -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if peer else None

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return  # nobody reads what it still sends
        self._buffer += data
        self._go_on()

    def eof_received(self) -> bool:
        self._half_closed = True
        if self._head is not None and not self._body.done:
            self._fail(Gone())
            return False
        return self._head is not None  # who has asked may still read its answer

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._ending = True
        self._stop_timer()
        if not self._body.done:
            self._fail(Gone())
        _wake(self._writer)
        self._gone(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)
        if self._buffer:
            self._go_on()

    # -- requests ------------------------------------------------------------------------------------------------------

    async def body(self) -> bytes:
        """The body of the request that is under way. Raises :class:`Unreadable`, or :class:`Gone`."""
        head = self._head
        assert head is not None
        if head.expects_continue and not self._body.received and not self._body.done and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._trouble or self._body.done):
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self._raise_trouble()
        return self._received

    def _raise_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _go_on(self) -> None:
        """Make the best of what has come."""
        if self._head is None:
            if not self._full and not self._ending:
                self._begin()
        else:
            self._feed()
        if len(self._buffer) > PIPELINED and self.transport is not None:
            self.transport.pause_reading()

    def _begin(self) -> None:
        self._buffer = data = _without_empty_lines(self._buffer)
        end = data.find(b"\r\n\r\n", max(self._good - 3, 0)) + 4
        try:
            if end == 3:
                if len(data) > LIMITS.head:
                    raise ProtocolError(f"the request head is larger than {LIMITS.head} bytes")
                if hopeless(data, self._good):
                    raise ProtocolError("a control byte, or a bare CR or LF, in the request head")
                self._good = len(data)
                return
            head = parse_request(data[:end], LIMITS)
        except ProtocolError as error:
            self._refuse(error)
            return
        self._stop_timer()
        self._good = 0
        self._buffer = data[end:]
        self._head = head
        self._body = Body(head.length, decode=True)
        self._received = b""
        self._trouble = None
        self._feed()
        self.task = asyncio.get_running_loop().create_task(self._answer(Request(self, head, data[:end]), head))

    def _feed(self) -> None:
        body, data = self._body, self._buffer
        if self._trouble is not None or not data:
            return
        assert self._head is not None
        try:
            used = body.feed(data)
        except ProtocolError as error:
            self._fail(Unreadable(400, "bad_request", str(error)))
            return
        self._buffer = data[used:]
        self._received += body.decoded() if self._head.length == CHUNKED else data[:used]
        if body.received > MAX_BODY:
            self._fail(Unreadable(413, "too_large", f"a body may have {MAX_BODY} bytes at most"))
        elif body.done:
            _wake(self._reader)

    def _fail(self, trouble: Exception) -> None:
        """The body will not be had."""
        self._trouble = self._trouble or trouble
        self._received = self._buffer = b""
        _wake(self._reader)

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what is no request, and log nothing: whoever can connect could fill the log."""
        body = orjson.dumps({"error": "bad_request", "message": str(error)}, option=orjson.OPT_APPEND_NEWLINE)
        self._write(
            render_head(Reply(400, "application/json"), 1, [f"Content-Length: {len(body)}", "Connection: close"]), body
        )
        self._end(gently=True)

    # -- answers -------------------------------------------------------------------------------------------------------

    async def _answer(self, request: Request, head: RequestBlock) -> None:
        reply = await self._serve(request)
        whole = self._body.done and self._trouble is None
        keep = head.keep_alive and whole and not (reply.close or self._ending or self._half_closed)
        if reply.stream is None:
            lines = [f"Content-Length: {len(reply.body)}", *connection_lines(keep, head.version)]
            self._write(render_head(reply, head.version, lines), b"" if head.method == "HEAD" else reply.body)
        else:
            keep = await self._stream(reply, reply.stream, head, keep and head.version == 1)
        self._head = self.task = None
        self._answered(self)
        if keep and not self._ending:
            self._rest()
        else:
            self._end(gently=not whole)

    async def _stream(self, reply: Reply, stream: Stream, head: RequestBlock, keep: bool) -> bool:
        """Send piece after piece, as they are read; whether the connection can stay. One that could not be sent to its
        end is cut off, so that nobody takes it for everything."""
        chunked = head.version == 1
        lines = ["Transfer-Encoding: chunked"] if chunked else []
        try:
            self._write(render_head(reply, head.version, [*lines, *connection_lines(keep, head.version)]))
            if head.method == "HEAD":
                return keep
            async for piece in stream.pieces:
                if piece:
                    self._write(*((b"%x\r\n" % len(piece), piece, b"\r\n") if chunked else (piece,)))
                    async with asyncio.timeout(min(STREAM_SECONDS, stream.patience)):
                        await self._drained()
            if chunked:
                self._write(b"0\r\n\r\n")
            return keep
        except Gone:
            return False  # whoever asked has seen enough
        except (Broken, TimeoutError) as error:
            logger.warning("an export was cut off", extra={"client": self.client, "error": str(error)})
        except Exception:
            logger.exception("a stream failed")
        finally:
            stream.close()
        self.abort()
        return False

    async def _drained(self) -> None:
        """Wait until there is room for more. Raises :class:`Gone`."""
        if self._full and self.transport is not None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self.transport is None:
            raise Gone

    def _write(self, *pieces: bytes | memoryview) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"".join(pieces))

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Wait for the next request, which may be there already."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._watch(KEEPALIVE_SECONDS)
        transport.resume_reading()
        if self._buffer:
            self._go_on()

    def close(self) -> None:
        """End, with the answer that is under way if there is one."""
        self._ending = True
        if self.task is None:
            self._end()

    def abort(self) -> None:
        """End now."""
        if self.transport is not None:
            self.transport.abort()

    def _end(self, gently: bool = False) -> None:
        """Close once all is read that was written. ``gently``: let the client send on for a moment, because a reset
        would take the answer from it."""
        self._ending = True
        self._buffer = b""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if gently and not self._half_closed:
            transport.write_eof()
            transport.resume_reading()
            self._watch(LINGER_SECONDS)
        else:
            transport.close()
            self._watch(KEEPALIVE_SECONDS)

    def _watch(self, seconds: float) -> None:
        """End the connection after that time, unless another request begins. One that still reads has as long again."""
        self._stop_timer()
        assert self.transport is not None
        self._unread = self.transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, seconds)

    def _late(self, seconds: float) -> None:
        if self.transport is not None and self.transport.get_write_buffer_size() < self._unread:
            self._watch(seconds)
        else:
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _without_empty_lines(data: bytes) -> bytes:
    """RFC 9112 §2.2: those before a request are ignored."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data
