"""An answer's body on its way to the client, where it did not come with the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.replies import ProtocolError, Reply
from sidecar.http.h1.body import Body

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.ends import UpstreamEnd
    from sidecar.http.exchange import HttpExchange


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
                x.let_go(attempt, conn, answer)
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
