"""A request's body on its way to the upstream: what is at hand of it for another attempt, and its pace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.replies import ProtocolError, Reply
from sidecar.exchange.phases import SENT
from sidecar.exchange.time_left import with_time
from sidecar.http.h1.body import Body

if TYPE_CHECKING:
    from sidecar.http.ends import UpstreamEnd
    from sidecar.http.exchange import HttpExchange


class Upload:
    """The body of one request, of that framing. ``kept`` are the bytes that have come, ``kept_size`` how many; ``kept``
    is empty, and the request not replayable, once they were too many."""

    __slots__ = ("body", "kept", "kept_size", "pace")

    def __init__(self, length: int, pace: float) -> None:
        self.body = Body(length)
        self.kept: list[bytes] = []
        self.kept_size = 0
        #: Where the time for the upload stood before its first byte; see :meth:`due`.
        self.pace = pace

    def take(self, x: HttpExchange, data: bytes) -> bytes:
        """Take what belongs to the body and return the rest. Raises :class:`ProtocolError`."""
        body = self.body
        used = body.feed(data)
        rest = b"" if used == len(data) else data[used:]
        limit = x.listener.limits.body
        if limit and body.received > limit:
            raise ProtocolError(f"the request body is larger than {limit} bytes", "body_too_large")
        x.count_in(used)
        data = body.onward(data, used)
        if body.done:
            x.request_done = True
        if data:
            self._pass_on(x, data)
        x.touched = now = x.listener.clock()
        if x.phase == SENT:
            timeout = x.chain.timeout
            x.deadline = self.due(x)
            if timeout.total:
                x.deadline = min(x.deadline, x.started + timeout.total)
            attempt = x.attempt
            assert attempt is not None
            attempt.deadline = max(attempt.deadline, min(x.deadline, now + x.chain.patience))
        if data and x.chain.on_body and x.client.exchange is x:
            show(x, data)
        return rest

    def take_whole(self, data: bytes) -> bool:
        """Take a body that is here at once; return False if that is not all of it, or too much."""
        self.kept.append(data)
        self.kept_size = len(data)
        return self.body.feed(data) == len(data) and self.body.done

    def _pass_on(self, x: HttpExchange, data: bytes) -> None:
        conn = x.conn
        if x.replayable:
            if self.kept_size + len(data) <= x.chain.keep or conn is None:
                self.kept.append(data)
                self.kept_size += len(data)
                if self.kept_size > x.chain.keep:
                    x.client.pause_reading()  # nowhere to send it yet
            else:
                x.replayable = False
                self.kept.clear()
        if conn is not None:
            conn.transport.write(data)

    def begin(self, x: HttpExchange, conn: UpstreamEnd) -> None:
        """Send the head, and what has come of the body."""
        attempt = conn.attempt
        conn.transport.write(with_time(x.head.as_http1(), attempt.deadline - attempt.sent) + b"".join(self.kept))
        if self.kept_size > x.chain.keep:
            x.replayable = False
            self.kept.clear()

    def due(self, x: HttpExchange) -> float:
        """When the time for the upload is over. The time for the answer, ``timeout.request``, runs from the request's
        last byte; until then it runs from the latest one, as long as all of them together keep up with
        ``limits.body_rate``. So a long upload has its time, and a byte now and then buys none. What a caller
        grants counts in the same way, as it does where that stands."""
        rate = x.listener.limits.body_rate
        due = x.touched + min(x.chain.timeout.request, x.granted)
        return due if x.request_done or not rate else min(due, self.pace + x.bytes_in / rate)

    def resumed(self, x: HttpExchange) -> None:
        """The client was not read from, which was not its fault: its pace is measured anew."""
        if not x.request_done:
            rate = x.listener.limits.body_rate
            x.touched = now = x.listener.clock()
            self.pace = now + x.chain.timeout.request - (x.bytes_in / rate if rate else 0.0)


def show(x: HttpExchange, data: bytes) -> None:
    """Show the filters a part of the request's body. What came with the head is shown after ``on_request``."""
    refusal: Reply | None = None
    for hook in x.chain.on_body:
        verdict = hook(x, data)
        if refusal is None:
            refusal = verdict
    if refusal is not None:
        x.keep_client = False
        x.reply(refusal)
