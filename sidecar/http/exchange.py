"""One HTTP request and its answer: bodies, retries, upgrades, and how each of them ends."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.methods import IDEMPOTENT
from sidecar.core.replies import NOT_DELIVERED, STATUS, ProtocolError, Reply, render
from sidecar.exchange.attempt import MALFORMED, RACE, RESET, Attempt
from sidecar.exchange.exchange import STALLED, Exchange
from sidecar.exchange.filter import Again, Answer, Failed, Wait
from sidecar.exchange.phases import ANSWERING, ENDED, PENDING, SENT, TUNNEL
from sidecar.exchange.request import Request
from sidecar.http.h1.body import Body
from sidecar.http.h1.head import CHUNKED, UNTIL_CLOSE, without
from sidecar.net.sockets import undelivered

if TYPE_CHECKING:
    import asyncio

    from sidecar.exchange.routes import Route
    from sidecar.http.h1.client import Upstream
    from sidecar.http.h1.head import RequestBlock, ResponseBlock
    from sidecar.http.h1.server import Downstream

#: The status that is counted when the client left before it had all of its answer.
CLIENT_LEFT: Final = 499
#: 1xx answers to one request; more are taken for an attack.
MAX_INTERIMS: Final = 32


class HttpExchange(Request):
    """A request that was parsed. ``client`` is the connection it came from."""

    __slots__ = (
        "answer", "body", "client", "half_closed", "keep_client", "kept",
        "pace", "pool", "problem", "raced", "reply_body", "version",
    )  # fmt: skip

    def __init__(self, client: Downstream, head: RequestBlock, route: Route, now: float) -> None:
        Exchange.__init__(self, client.listener, route, client.ip, now)
        self.client = client
        self.pool = client.listener.pool
        self.head = head
        self.method = head.method
        #: The minor version of HTTP/1 that the client speaks.
        self.version = head.version
        self.answer: ResponseBlock | None = None
        #: What is still to come of the request's body (None: nothing), and of the answer's.
        self.body: Body | None = Body(head.length) if head.length else None
        self.reply_body: Body | None = None
        self.request_done = head.length == 0
        #: Where the time for the upload stood before its first byte; see :meth:`_upload_due`.
        self.pace = now + self.chain.timeout.request if head.length else 0.0
        #: Body bytes received so far, for the first or another try; empty and not replayable once it was too much.
        self.kept: list[bytes] = []
        self.kept_size = 0
        self.raced = False
        #: 1xx answers so far.
        self.interims = 0
        #: What was wrong with an answer.
        self.problem = ""
        #: In a tunnel: one side has finished sending.
        self.half_closed = False
        #: Whether the client's connection can be used for another request.
        self.keep_client = head.keep_alive

    # -- from the client -------------------------------------------------------------------------------------------

    def body_so_far(self) -> bytes:
        return b"".join(self.kept)

    def ask_for_body(self) -> None:
        client = self.client
        if client.reading_paused:
            client.resume_reading()
        if self.head.expects_continue and not self.bytes_in and not self.interims:
            client.ask_for_body()

    @property
    def client_transport(self) -> asyncio.Transport:
        return self.client.transport

    def request_body(self, data: bytes) -> bytes:
        """Take what belongs to the request's body and return the rest. Raises :class:`ProtocolError`."""
        body = self.body
        assert body is not None
        used = body.feed(data)
        rest = b"" if used == len(data) else data[used:]
        limit = self.listener.limits.body
        if limit and body.received > limit:
            raise ProtocolError(f"the request body is larger than {limit} bytes", "body_too_large")
        self.count_in(used)
        data = body.onward(data, used)
        if body.done:
            self.body = None
            self.request_done = True
        if data:
            self._pass_on(data)
        self.touched = now = self.listener.clock()
        if self.phase == SENT:
            timeout = self.chain.timeout
            self.deadline = self._upload_due()
            if timeout.total:
                self.deadline = min(self.deadline, self.started + timeout.total)
            attempt = self.attempt
            assert attempt is not None
            attempt.deadline = max(attempt.deadline, min(self.deadline, now + self.chain.patience))
        if data and self.chain.on_body and self.client.exchange is self:
            self.see_body(data)
        return rest

    def see_body(self, data: bytes) -> None:
        """Show the filters a part of the request's body. What came with the head is shown after ``on_request``."""
        refusal: Reply | None = None
        for hook in self.chain.on_body:
            verdict = hook(self, data)
            if refusal is None:
                refusal = verdict
        if refusal is not None:
            self.keep_client = False
            self.reply(refusal)

    def _upload_due(self) -> float:
        """When the time for the upload is over. The time for the answer, ``timeout.request``, runs from the request's
        last byte; until then it runs from the latest one, as long as all of them together keep up with
        ``limits.body_rate``. So a long upload has its time, and a byte now and then buys none."""
        request = self.chain.timeout.request
        rate = self.listener.limits.body_rate
        due = self.touched + request
        return due if self.request_done or not rate else min(due, self.pace + self.bytes_in / rate)

    def upload_resumed(self) -> None:
        """The client was not read from, which was not its fault: its pace is measured anew."""
        if not self.request_done:
            rate = self.listener.limits.body_rate
            self.touched = now = self.listener.clock()
            self.pace = now + self.chain.timeout.request - (self.bytes_in / rate if rate else 0.0)

    def check_idle(self, now: float) -> None:
        if self.phase != PENDING or self.request_done:
            Exchange.check_idle(self, now)
        elif now < (due := self._upload_due()):
            self.set_timer(due)
        else:
            self.reply(Reply("timeout", STALLED))

    @property
    def conn(self) -> Upstream | None:
        """The connection of the attempt under way."""
        attempt = self.attempt
        return cast("Upstream | None", attempt.conn) if attempt is not None else None

    def _pass_on(self, data: bytes) -> None:
        conn = self.conn
        if self.replayable:
            if self.kept_size + len(data) <= self.chain.keep or conn is None:
                self.kept.append(data)
                self.kept_size += len(data)
                if self.kept_size > self.chain.keep:
                    self.client.pause_reading()  # nowhere to send it yet
            else:
                self.replayable = False
                self.kept.clear()
        if conn is not None:
            conn.transport.write(data)

    def client_gone(self) -> None:
        """The client closed or reset its connection: nobody waits for this any more."""
        if self.phase < TUNNEL:
            self.status = CLIENT_LEFT
        self.abort()

    def client_stalls(self) -> bool:
        if self.request_done or self.phase != SENT or self.client.reading_paused:
            return False
        return bool(self.bytes_in or self.interims or not self.head.expects_continue)

    # -- tries -----------------------------------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        pool = self.pool
        conn = None
        if not self.fresh:
            conn = pool.take(attempt.endpoint, self.method in IDEMPOTENT)
        if conn is not None:
            self.connected(attempt, conn)
        else:
            timeout = self.chain.timeout.connect
            attempt.deadline = min(self.deadline, self.listener.clock() + timeout)
            self.set_timer(attempt.deadline)
            pool.connect(self, attempt)

    def connected(self, attempt: Attempt, conn: Upstream) -> None:
        """Send the head and what has arrived of the body. ``timeout.request`` and the breaker's share of it run."""
        client = self.client
        if client.reading_paused:
            client.resume_reading()  # before the writes, which may pause it again
            self.upload_resumed()
        attempt.connecting = None
        self.phase = SENT
        attempt.conn = conn
        conn.exchange = self
        conn.attempt = attempt
        kept = self.kept
        if kept:
            conn.transport.write(self.head.as_http1() + b"".join(kept))
            if self.kept_size > self.chain.keep:
                self.replayable = False
                kept.clear()
        else:
            conn.transport.write(self.head.as_http1())
        attempt.deadline = deadline = min(self.deadline, self.listener.clock() + self.chain.patience)
        client.timer.set(deadline)

    def lost(self, attempt: Attempt, conn: Upstream, cleanly: bool) -> None:
        """The upstream's connection was closed or (not ``cleanly``) broke."""
        if self.phase == SENT:
            attempt.conn = None
            if conn.reused and not conn.buffer and not self.interims and self._again_after_race():
                return
            self.try_failed(attempt, RESET)
        elif self.phase == ANSWERING:
            reply_body = self.reply_body
            # Whoever closes without having read everything resets the connection; that is no sign of a part missing.
            if (cleanly or not self.request_done) and reply_body is not None and reply_body.closed():
                attempt.conn = None
                self.finish()
            else:
                self.error = "upstream_reset"
                self.cluster.failed(attempt.endpoint, hard=False)
                self.abort()
        elif self.phase == TUNNEL:
            self.abort()  # an orderly end is an EOF from each side

    def _again_after_race(self) -> bool:
        """A kept connection closed just as it was used (RFC 9112 §9.3.1): the upstream has not read the request, as
        far as one can know, so an idempotent one goes again, once, on a fresh connection. That is no failure."""
        if self.raced or not self.replayable or self.method not in IDEMPOTENT:
            return False
        self.raced = True
        self.fresh = True
        failed: Failed | None = None
        for hook in self.chain.on_failure:
            verdict = hook(self, RACE)
            if isinstance(verdict, Failed):
                failed = verdict
        self.leave_endpoint()
        if failed is not None:
            self.reply(failed)
            return True
        self.attempts -= 1
        self.listener.stats.retried("race")
        self.begin_try()
        return True

    def cut(self) -> None:
        attempt = self.attempt
        if attempt is not None:
            conn = self.conn
            if conn is not None:
                attempt.conn = None
                conn.close()
            attempt.stop_connecting()

    # -- the answer ------------------------------------------------------------------------------------------------

    def malformed(self, attempt: Attempt, error: ProtocolError) -> None:
        """What came from the upstream is not HTTP, or is ambiguous."""
        self.cut()
        self.problem = str(error)
        if self.phase == SENT:
            self.try_failed(attempt, MALFORMED)
        else:
            self.error = "bad_upstream"
            self.abort()

    def explain(self, kind: str, attempt: Attempt) -> Reply:
        if kind is MALFORMED:
            return Reply("bad_upstream", f"{self.listener.name} at {attempt.endpoint.address}: {self.problem}")
        return Exchange.explain(self, kind, attempt)

    def interim(self, attempt: Attempt, head: ResponseBlock) -> None:
        """A 1xx answer: forwarded as it comes, but never to an HTTP/1.0 client (RFC 9110 §15.2)."""
        self.interims += 1
        if self.interims > MAX_INTERIMS:
            self.malformed(attempt, ProtocolError(f"more than {MAX_INTERIMS} interim answers", "bad_upstream"))
        elif self.version == 1:
            self.client.transport.write(head.raw)

    def answered(self, attempt: Attempt, conn: Upstream, head: ResponseBlock, rest: bytes) -> None:
        """The final head, with what came behind it."""
        status = head.status
        cluster = self.cluster
        endpoint = attempt.endpoint
        if status < 500:
            cluster.succeeded(endpoint)
        else:
            # The code of a peer sidecar that answered instead of its app.
            code = head.fields.get(b"x-sidecar-error", b"").strip(b" \t")
            cluster.failed(endpoint, hard=code in NOT_DELIVERED)
        again: Again | None = None
        instead: Reply | Answer | None = None
        for hook in self.chain.on_answer:
            verdict = hook(self, head)
            if verdict is not None:
                if isinstance(verdict, Again):
                    again = verdict
                elif instead is None or isinstance(verdict, Failed):
                    instead = verdict
        if again is not None or instead is not None:
            self._give_up_answer(attempt, conn, head, rest)
            self.leave_endpoint()
            if again is not None and not isinstance(instead, Failed):
                self.retry_later(again)
            elif isinstance(instead, Reply):
                self.reply(instead)
            elif instead is not None:
                self.give(instead)
            return
        client = self.client
        raw = head.raw
        if status == 101:
            for may_upgrade in self.chain.on_upgrade:
                refusal = may_upgrade(self)
                if refusal is not None:
                    self.keep_client = False
                    self.reply(refusal)
                    return
            self.status = status
            self.answer = head
            self._upgraded(conn, raw, rest)
            return
        self.status = status
        self.answer = head
        length = head.length
        keep = self.keep_client and length != UNTIL_CLOSE and not self.listener.draining
        if not self.request_done or (length == CHUNKED and self.version == 0):
            keep = False
        self.keep_client = keep
        if not keep:
            raw = raw[:-2] + b"connection: close\r\n\r\n"
        elif self.version == 0:
            raw = raw[:-2] + b"connection: keep-alive\r\n\r\n"
        if length == len(rest):  # all of it is here: the common case
            if rest and self.chain.on_answer_body and self._refused(rest):
                return
            client.transport.write(raw + rest if rest else raw)
            self.count_out(length)
            self._let_go(attempt, conn, head)
            self.finish()
            return
        self.phase = ANSWERING
        decode = length == CHUNKED and self.version == 0
        if decode:
            raw = without(raw, b"transfer-encoding")
        self.reply_body = Body(length, decode, lenient=True)
        client.transport.write(raw)
        self.touched = self.listener.clock()
        self.check_idle(self.touched)
        if client.paused_writing:
            conn.pause_reading()
        if rest:
            self.answer_body(attempt, conn, rest)

    def answer_body(self, attempt: Attempt, conn: Upstream, data: bytes) -> None:
        """More of the answer's body."""
        body = self.reply_body
        assert body is not None
        assert self.answer is not None
        try:
            used = body.feed(data)
        except ProtocolError as error:
            self.malformed(attempt, error)
            return
        surplus = used < len(data)
        if self.version == 0 and self.answer.length == CHUNKED:
            data = body.decoded()
        else:
            data = body.onward(data, used)
        if data:
            if self.chain.on_answer_body and self._refused(data):
                return
            self.client.transport.write(data)
        self.count_out(len(data))
        self.touched = self.listener.clock()
        if body.done:
            if surplus:
                conn.close()  # bytes that nobody asked for: this connection can't be trusted again
                attempt.conn = None
            else:
                self._let_go(attempt, conn, self.answer)
            self.finish()

    def _refused(self, data: bytes) -> bool:
        """Show the filters a part of the answer's body; whether one of them has ended the exchange because of it."""
        refusal: Reply | None = None
        for hook in self.chain.on_answer_body:
            verdict = hook(self, data)
            if refusal is None:
                refusal = verdict
        if refusal is not None:
            self.reply(refusal)
        return refusal is not None

    def _let_go(self, attempt: Attempt, conn: Upstream, head: ResponseBlock) -> None:
        """The answer is complete: keep the connection if both directions are at a message border. An upstream that
        answered before it read all of the request may never read the rest."""
        attempt.conn = None
        if (
            head.keep_alive
            and self.request_done
            and head.length != UNTIL_CLOSE
            and not (self.bytes_in and conn.transport.get_write_buffer_size())
        ):
            self.pool.put(conn, head)
        else:
            conn.close()

    def _give_up_answer(self, attempt: Attempt, conn: Upstream, head: ResponseBlock, rest: bytes) -> None:
        """This answer will not be used; its connection can be only if all of it is here."""
        if head.length == len(rest):
            self._let_go(attempt, conn, head)
        else:
            attempt.conn = None
            conn.close()

    def _upgraded(self, conn: Upstream, raw: bytes, rest: bytes) -> None:
        """Both sides have left HTTP (RFC 9110 §7.8): bytes pass as they are. Its place in the pool is given back."""
        self.phase = TUNNEL
        self.keep_client = False
        client = self.client
        client.transport.write(raw + rest)
        self.count_out(len(rest))
        self.listener.stats.tunnels += 1
        self.pool.upgraded(conn)
        client.resume_reading()  # before a write that may pause it again
        early = client.take_buffer()
        if early:
            self.tunnel_in(early)
        self.touched = self.listener.clock()
        self.check_idle(self.touched)
        if client.half_closed:
            self.tunnel_closed(by_client=True)

    def tunnel_in(self, data: bytes) -> None:
        """Client → upstream."""
        conn = self.conn
        if conn is not None:
            conn.transport.write(data)
            self.count_in(len(data))
            self.touched = self.listener.clock()

    def tunnel_out(self, data: bytes) -> None:
        """Upstream → client."""
        self.client.transport.write(data)
        self.count_out(len(data))
        self.touched = self.listener.clock()

    def tunnel_closed(self, by_client: bool) -> None:
        """One side has finished sending: tell the other; when both have, it is over."""
        if self.half_closed:
            self.finish()
            return
        self.half_closed = True
        conn = self.conn
        transport = conn.transport if by_client and conn is not None else self.client.transport
        if not transport.is_closing():
            transport.write_eof()

    # -- ends ------------------------------------------------------------------------------------------------------

    def reply(self, reply: Reply) -> None:
        if self.phase >= ANSWERING:
            if self.phase != ENDED:  # a part of an answer is out: no other can follow it
                self.error = reply.code
                self.abort()
            return
        self.cut()
        for hook in self.chain.on_reply:
            verdict = hook(self, reply)
            if verdict is not None:
                if not isinstance(verdict, Wait):
                    self.give(verdict)
                return
        client = self.client
        self.error = reply.code
        keep = self.keep_client and self.request_done and not self.listener.draining
        self.keep_client = keep
        self.status = STATUS[reply.code]
        client.transport.write(
            render(reply, self.listener.name, self.request_id, close=not keep, head_only=self.method == "HEAD")
        )
        self.finish()

    def give(self, answer: Answer) -> None:
        status = answer.status
        lines = [f"HTTP/1.1 {status} {_phrase(status)}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in answer.fields]
        if self.request_id:
            lines.append(f"x-request-id: {self.request_id}\r\n")
        self.respond(status, "".join(lines).encode("latin-1"), answer.body)

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        if self.phase >= ANSWERING:
            return
        self.cut()
        self.status = status
        self.keep_client = keep = self.keep_client and self.request_done and not self.listener.draining
        length = b"" if status in (204, 304) else b"content-length: %d\r\n" % len(body)
        end = b"\r\n" if keep else b"connection: close\r\n\r\n"
        if self.method == "HEAD" or not length:
            body = b""
        self.client.transport.write(lines + length + end + body)
        self.count_out(len(body))
        self.finish()

    def finish(self) -> None:
        """It is over, and the client's side is at a message border or is to be closed."""
        tunnel = self.phase == TUNNEL
        unread = not self.request_done
        if not self.end():
            return
        attempt = self.attempt
        if tunnel:
            self.listener.stats.tunnels -= 1
            conn = self.conn
            if conn is not None and attempt is not None:
                attempt.conn = None
                conn.finish()
        if attempt is not None and attempt.conn is not None:
            self.cut()
        self.client.exchange_done(self.keep_client, unread)

    def abort(self) -> None:
        tunnel = self.phase == TUNNEL
        if not self.end():
            return
        if tunnel:
            self.listener.stats.tunnels -= 1
        self.cut()
        if self.answer is not None:
            self.client.abort()
        else:
            self.client.exchange_done(keep=False, unread=False)  # earlier answers may still be on their way

    def least_read(self, seconds: float) -> float:
        return self.listener.limits.body_rate * seconds if self.phase == ANSWERING else 0.0

    def undelivered(self) -> int:
        conn = self.conn
        return undelivered(self.client.transport) + (undelivered(conn.transport) if conn is not None else 0)

    def set_timer(self, deadline: float) -> None:
        self.client.timer.set(deadline)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
