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

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.ends import UpstreamEnd
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.head import ResponseBlock


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
                let_go(x, attempt, conn, answer)
            x.finish()


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


def let_go(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, head: ResponseBlock) -> None:
    """The answer is complete: keep the connection if both directions are at a message border. An upstream that
    answered before it read all of the request may never read the rest."""
    attempt.conn = None
    if (
        head.keep_alive
        and x.request_done
        and head.length != UNTIL_CLOSE
        and not (x.bytes_in and conn.transport.get_write_buffer_size())
    ):
        x.pool.put(conn, head)
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
    if length != len(rest):
        _stream(x, attempt, conn, raw, rest)
    elif not refused(x, rest):
        x.client.transport.write(raw + rest)
        x.count_out(length)
        let_go(x, attempt, conn, head)
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


def _stream(x: HttpExchange, attempt: Attempt, conn: UpstreamEnd, raw: bytes, rest: bytes) -> None:
    """Pass the head on, and what has come of the body: more is to come."""
    assert x.answer is not None
    client = x.client
    length = x.answer.length
    x.phase = ANSWERING
    decode = length == CHUNKED and x.version == 0
    if decode:
        raw = without(raw, b"transfer-encoding")
    x.download = download = Download(length, decode)
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
        let_go(x, attempt, conn, head)
    else:
        attempt.conn = None
        conn.close()
