"""The admin API's side of a connection: requests come in one after the other, each is answered by a task of its own.

It is a small server for few clients, over the parser that the traffic has, too: so the admin API takes no library of
its own, which would be a quarter of the memory of a sidecar at rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

from sidecar.admin.request import LIMITS, Request
from sidecar.core.replies import ProtocolError
from sidecar.http.h1.diagnose import head_too_large, hopeless
from sidecar.net.sockets import keep_alive

#: Scrapers, which come every 15 to 60 seconds, keep their connections.
KEEPALIVE_SECONDS: Final = 75.0
#: How long what a client still sends is read after the last answer, so that no reset takes that from it.
LINGER_SECONDS: Final = 1.0
#: Bytes that may wait behind a request that is being answered before no more is read.
_PIPELINED: Final = 65536

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: What every answer says, unless it says otherwise.
_COMMON: Final = {
    "Server": "sidecar",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. ``last``: the connection ends with it."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    last: bool = False


class Server:
    """Makes connections. ``answer`` answers each request, and raises nothing; ``malformed`` says what is answered to
    what is none; ``largest`` how large the body of a method and path may be."""

    def __init__(
        self,
        answer: Callable[[Connection, Request], Awaitable[None]],
        malformed: Callable[[ProtocolError], Response],
        largest: Callable[[str, str], int],
    ) -> None:
        self.answer = answer
        self.malformed = malformed
        self.largest = largest
        self.connections: set[Connection] = set()
        self.closing = False

    def __call__(self) -> Connection:
        return Connection(self)

    async def close(self, patience: float) -> None:
        """End all connections: those without a request at once, the others when it is answered, which may take so many
        seconds."""
        self.closing = True
        tasks = [it.task for it in self.connections if it.task is not None]
        for each in [*self.connections]:
            if each.task is None:
                each.end()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for each in [*self.connections]:
            each.end()


class Connection(asyncio.Protocol):
    """One connection. ``transport`` is None when it has ended, ``task`` the one that answers."""

    def __init__(self, server: Server) -> None:
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        self._server = server
        self._client: str | None = None
        self._request: Request | None = None
        self._buffer = b""
        #: Whether an answer is on its way, so that there can be no other one.
        self.begun = False
        #: Whether it is the last one, is a stream; whether nothing more comes in, and whether what does is only thrown
        #: away.
        self._last = False
        self._ended = False
        self._streams = False
        self._lingering = False
        self._timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._full = False

    @property
    def gone(self) -> bool:
        """Whether nobody is there any more."""
        return self.transport is None or self.transport.is_closing()

    # -- coming in -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(self.transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if peer else None
        self._server.connections.add(self)
        if self._server.closing:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self.transport is None:
            return
        if self._request is not None:
            data = self._request.feed(data)
        if data:
            self._buffer += data
            if self.task is None and not self._full:
                self._next()
            elif len(self._buffer) > _PIPELINED and not self.transport.is_closing():
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Answer what was asked by one who says that nothing more comes (``nc -N``); return whether there is such."""
        self._ended = True
        if self._request is not None:
            return self._request.complete and not self._streams
        return self._full and not self._lingering and bool(self._buffer)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._server.connections.discard(self)
        self._set_timer(None)
        if self._request is not None:
            self._request.fail(ConnectionResetError("the client has left"))
        self.resume_writing()

    def _next(self) -> None:
        """Begin with the next request, if its head is whole."""
        assert self.transport is not None
        data = self._buffer = self._buffer.lstrip(b"\r\n")  # RFC 9112 §2.2
        end = data.find(b"\r\n\r\n") + 4
        try:
            if end == 3:
                if len(data) > LIMITS.head:
                    raise head_too_large(LIMITS.head)
                if hopeless(data):
                    raise ProtocolError("a control byte, or a bare CR or LF, in the request head")
                return
            request = Request(data[:end], self._client)
        except ProtocolError as error:
            self._refuse(error)
            return
        request.most = self._server.largest(request.method, request.path)
        self._set_timer(None)
        self._request = request
        self._buffer = request.feed(data[end:])
        self.begun = self._streams = self._last = False
        self.task = asyncio.get_running_loop().create_task(self._answer(request))

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what is no request, and end: where the next one would begin is a guess."""
        response = self._server.malformed(error)
        head = _head(response.status, response.headers, f"Content-Length: {len(response.body)}\r\nConnection: close")
        assert self.transport is not None
        self.transport.write(head + response.body)
        self._end_gently()

    # -- going out -------------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.answer(self, request)
        finally:
            self.task = self._request = None
            if self.transport is not None and not self.transport.is_closing():
                self._answered(self.transport, request)

    def _answered(self, transport: asyncio.Transport, request: Request) -> None:
        if not self.begun:
            transport.close()  # its handler was cancelled
            return
        if not request.complete:
            self._end_gently()
            return
        self._set_timer(KEEPALIVE_SECONDS)  # also for who does not read the last answer
        if self._last or self._server.closing:
            transport.close()
        else:
            self._proceed(transport)

    def _proceed(self, transport: asyncio.Transport) -> None:
        """Go on with what waits; or, while answers do not go out, read nothing that would be answered, too."""
        if self._full:
            if not self._ended:
                transport.pause_reading()
            return
        if not self._ended:
            transport.resume_reading()
        if self._buffer:
            self._next()
        if self._ended and self.task is None and not self._lingering:
            transport.close()

    def send(self, request: Request, response: Response) -> None:
        """Send a whole answer."""
        self._last = response.last
        framing = f"Content-Length: {len(response.body)}\r\n{self._persistence(request)}"
        head = _head(response.status, response.headers, framing)
        self._write(head if request.method == "HEAD" else head + response.body)

    def begin(self, request: Request, headers: Mapping[str, str]) -> None:
        """Begin an answer of unknown length. Raises :class:`ConnectionError` when nobody is there."""
        self._last, self._streams = not request.chunks, True
        if self._ended and self.transport is not None:
            self.transport.close()  # nobody would notice when it stops to read
        framing = "Transfer-Encoding: chunked\r\n" if request.chunks else ""
        self._write(_head(200, headers, framing + self._persistence(request)))

    async def piece(self, request: Request, data: bytes | memoryview) -> None:
        """Send a piece of it, and wait for room for the next one. Raises :class:`ConnectionError`."""
        if request.chunks:
            self._write(b"%x\r\n" % len(data))
            self._write(data)
            self._write(b"\r\n")
        else:
            self._write(data)
        if self._full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
            if self.gone:
                raise ConnectionResetError("the client has left")

    def finish(self, request: Request) -> None:
        """End it. Raises :class:`ConnectionError`."""
        if request.chunks:
            self._write(b"0\r\n\r\n")

    def go_on(self, request: Request) -> None:
        """Have a client send its body that waits for being told (RFC 9110 §10.1.1)."""
        if request.waits and not request.complete:
            request.waits = False
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.begun = False  # that is no answer yet

    def _persistence(self, request: Request) -> str:
        """The Connection field, and whether it says that there is no further answer."""
        self._last = self._last or not request.keep_alive or not request.complete or self._server.closing
        return "Connection: close" if self._last else "Connection: keep-alive"

    def _write(self, data: bytes | memoryview) -> None:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        self.begun = True
        self.transport.write(data)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self.task is None and not self._lingering and not self.gone:
            assert self.transport is not None
            self._proceed(self.transport)

    # -- ends ------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Close it when what was written is out."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Cut it."""
        if self.transport is not None:
            self.transport.abort()

    def _end_gently(self) -> None:
        """Say that nothing more comes, and read on for a moment what the client is still sending."""
        assert self.transport is not None
        self._lingering, self._buffer = True, b""
        if self._ended:
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError:  # asyncio's own transports, of a client that has left
            self.transport.abort()
            return
        self.transport.resume_reading()
        self._set_timer(LINGER_SECONDS)

    def _set_timer(self, seconds: float | None) -> None:
        """End it in so many seconds; None: do not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)


def _head(status: int, headers: Mapping[str, str], framing: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**_COMMON, **headers}.items())
    phrase = HTTPStatus(status).phrase
    return f"HTTP/1.1 {status} {phrase}\r\nDate: {_date(time.time())}\r\n{lines}{framing}\r\n\r\n".encode("latin-1")


def _date(at: float) -> str:
    """As HTTP writes it (RFC 9110 §5.6.7)."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(at)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
