"""An upstream's answer on its way to the client, from the head on: whole, in parts, or as the beginning of a tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.replies import ProtocolError, Reply
from sidecar.exchange.one_hop import given_up
from sidecar.exchange.phases import ANSWERING
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE
from sidecar.http.h1.lines import without
from sidecar.http.tunnel import begin_tunnel
from sidecar.resilience.pace import Pace

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.ends import UpstreamEnd
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.blocks import ResponseBlock


class Download:
    """The body of one answer, of that framing. ``decode``: the client knows no chunks, and gets what is in them."""

    __slots__ = ("_decode", "body")

    def __init__(self, length: int, decode: bool) -> None:
        self.body = Body(length, decode, lenient=True)
        self._decode = decode

    def take(self, x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, data: bytes) -> None:
        """More of it has come."""
        body = self.body
        answer = x.answer
        assert answer is not None
        try:
            used = body.feed(data)
        except ProtocolError as error:
            x.malformed(attempt, error)
            return
        surplus = used < len(data)
        data = body.decoded() if self._decode else body.onward(data, used)
        if data:
            if x.chain.on_answer_body and refused(x, data):
                return
            x.client.transport.write(data)
        x.count_out(len(data))
        x.touched = x.listener.clock()
        if body.done:
            if surplus:
                conn.close()  # bytes that nobody asked for: this connection can't be trusted again
                attempt.conn = None
            else:
                let_go(x, attempt, conn, answer, x.listener.clock())
            x.finish()

    def resumed(self) -> bool:
        """The client reads again. Return whether more is to be read from the upstream."""
        return True


class Paced(Download):
    """``rate`` bytes of the body per second, those of its framing included. What has come and may not go on yet is
    held; meanwhile the upstream is not read from, so that is one read at most, and what comes with the head."""

    __slots__ = ("_attempt", "_conn", "_held", "_pace", "_timer", "_x")

    def __init__(self, x: HttpExchange, length: int, decode: bool, rate: float) -> None:
        Download.__init__(self, length, decode)
        self._x = x
        self._pace = Pace(rate, x.listener.clock())
        self._timer = x.listener.wheel.timer(self._go_on)
        self._held = b""
        self._attempt: Attempt | None = None
        self._conn: UpstreamEnd | None = None

    def take(self, x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, data: bytes) -> None:
        self._attempt = attempt
        self._conn = conn
        self._held += data
        self._go_on()

    def resumed(self) -> bool:
        self._go_on()
        return False  # that has seen to it

    def _go_on(self) -> None:
        """Pass on what may go by now."""
        x, attempt, conn = self._x, self._attempt, self._conn
        if attempt is None or conn is None:
            return
        if x.phase == ANSWERING and attempt.conn is conn and not x.client.paused_writing:
            size = self._pace.take(len(self._held), x.listener.clock())
            data = self._held[:size]
            self._held = self._held[size:]
            if self._held:
                conn.pause_reading()
                self._timer.set(self._pace.due(len(self._held)))
            else:
                conn.resume_reading()  # before the connection may be given back
            if data:
                Download.take(self, x, attempt, conn, data)
        if x.phase != ANSWERING:
            self._timer.close()


def refused(x: HttpExchange, data: bytes) -> bool:
    """Show the filters a part of the answer's body; return whether one of them has ended the exchange because of it."""
    refusal: Reply | None = None
    for hook in x.chain.on_answer_body:
        verdict = hook(x, data)
        if refusal is None:
            refusal = verdict
    if refusal is not None:
        x.reply(refusal)
    return refusal is not None


def let_go(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, head: ResponseBlock, now: float) -> None:
    """The answer is complete: keep the connection if both directions are at a message border. An upstream that
    answered before it read all of the request may never read the rest."""
    attempt.conn = None
    if (
        head.keep_alive
        and x.request_done
        and head.length != UNTIL_CLOSE
        and not (x.bytes_in and conn.transport.get_write_buffer_size())
    ):
        x.pool.put(conn, head, now)
    else:
        conn.close()


def pass_on(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, head: ResponseBlock, rest: bytes) -> None:
    """Give the client this head, with what came behind it."""
    status = head.status
    if status == 101:
        _switch(x, conn, head, rest)
        return
    x.status = status
    x.answer = head
    raw = onward(x, head)
    length = head.length
    rate = _pace(x, head) if x.chain.on_pace else 0.0
    if rate or length != len(rest):
        _stream(x, attempt, conn, raw, rest, rate)
    elif not refused(x, rest):
        x.client.transport.write(raw + rest)
        x.count_out(length)
        let_go(x, attempt, conn, head, x.listener.clock())
        x.finish()


def onward(x: HttpExchange, head: ResponseBlock) -> bytes:
    """This head as the client gets it: with what it has to know of its connection, and of tries that were given up."""
    raw = head.raw
    length = head.length
    if head.status >= 400 and x.retried >= 0:
        raw = raw[:-2] + given_up(x) + b"\r\n"
    keep = x.keep_client and length != UNTIL_CLOSE and not x.listener.draining
    if not x.request_done or (length == CHUNKED and x.version == 0):
        keep = False
    x.keep_client = keep
    if not keep:
        raw = raw[:-2] + b"connection: close\r\n\r\n"
    elif x.version == 0:
        raw = raw[:-2] + b"connection: keep-alive\r\n\r\n"
    return raw


def _switch(x: HttpExchange, conn: UpstreamEnd, head: ResponseBlock, rest: bytes) -> None:
    """The upstream agrees to leave HTTP."""
    for may_upgrade in x.chain.on_upgrade:
        refusal = may_upgrade(x)
        if refusal is not None:
            x.keep_client = False
            x.reply(refusal)
            return
    x.status = head.status
    x.answer = head
    x.head_at = x.listener.clock()
    begin_tunnel(x, conn, head.raw, rest)


def _pace(x: HttpExchange, head: ResponseBlock) -> float:
    """The bytes per second that filters want this answer's body to take; 0: as it comes."""
    rate = 0.0
    if head.length:
        for hook in x.chain.on_pace:
            wanted = hook(x, head)
            if wanted is not None:
                rate = min(rate, wanted) if rate else float(wanted)
    return rate


def _stream(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, raw: bytes, rest: bytes, rate: float) -> None:
    """Pass the head on, and what has come of the body: more is to come. ``rate``: no quicker than that, unless 0."""
    assert x.answer is not None
    client = x.client
    length = x.answer.length
    x.phase = ANSWERING
    decode = length == CHUNKED and x.version == 0
    if decode:
        raw = without(raw, b"transfer-encoding")
    x.download = download = Paced(x, length, decode, rate) if rate else Download(length, decode)
    client.transport.write(raw)
    x.touched = x.head_at = x.listener.clock()
    x.check_idle(x.touched)
    if client.paused_writing:
        conn.pause_reading()
    if rest:
        download.take(x, attempt, conn, rest)


def drop(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, head: ResponseBlock, rest: bytes) -> None:
    """This answer will not be used; its connection can be only if all of it is here."""
    if head.length == len(rest):
        let_go(x, attempt, conn, head, x.listener.clock())
    else:
        attempt.conn = None
        conn.close()
