"""One HTTP request and its answer: bodies, retries, upgrades, and how each of them ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from sidecar.core.methods import IDEMPOTENT
from sidecar.core.replies import ProtocolError, Reply, render
from sidecar.exchange.attempt import MALFORMED, RACE, RESET, Attempt
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.filter import Again, Answer, Wait, weightier
from sidecar.exchange.hedge import settle
from sidecar.exchange.load_report import heard
from sidecar.exchange.one_hop import given_up
from sidecar.exchange.phases import ANSWERING, ENDED, PENDING, PHASES, SENT, TUNNEL
from sidecar.exchange.request import Request
from sidecar.exchange.story import note_stalled
from sidecar.exchange.time_left import LINES, line_of
from sidecar.exchange.tries import STALLED, due, go_on
from sidecar.http.download import Download, drop, let_go, onward, pass_on
from sidecar.http.errors import judge
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED
from sidecar.http.h1.lines import CONTINUE, own_head
from sidecar.http.race import again_after_race
from sidecar.http.upload import Upload
from sidecar.net.sockets import reset, undelivered

if TYPE_CHECKING:
    import asyncio

    from sidecar.exchange.listener import Listener
    from sidecar.exchange.routes import Route
    from sidecar.http.ends import ClientEnd, UpstreamEnd, UpstreamPool
    from sidecar.http.h1.blocks import RequestBlock, ResponseBlock

#: The status that is counted when the client left before it had all of its answer.
CLIENT_LEFT: Final = 499
#: 1xx answers to one request; more are taken for an attack.
MAX_INTERIMS: Final = 32


class HttpExchange(Request):
    """A request that was parsed. ``client`` is the connection it came from."""

    __slots__ = (
        "answer", "client", "download", "half_closed", "keep_client", "pool", "relay", "upload", "version",
    )  # fmt: skip

    #: In a tunnel: one side has finished sending.
    half_closed: bool

    def __init__(
        self, client: ClientEnd, listener: Listener, pool: UpstreamPool, head: RequestBlock, route: Route, now: float
    ) -> None:
        Exchange.__init__(self, listener, route, client.ip, now, head.method, head.granted)
        self.client = client
        self.pool = pool
        self.head = head
        #: The minor version of HTTP/1 that the client speaks.
        self.version = head.version
        self.answer: ResponseBlock | None = None
        #: The answer's body, if not all of it came with the head.
        self.download: Download | None = None
        self.request_done = head.length == 0
        #: The request's body, if it has one.
        self.upload = Upload(head.length, now + self.chain.timeout.request) if head.length else None
        #: 1xx answers so far.
        self.interims = 0
        #: Whether the client's connection can be used for another request.
        self.keep_client = head.keep_alive
        #: Where its answer comes from, when that is no attempt of its own.
        self.relay: UpstreamEnd | None = None

    # -- from the client -------------------------------------------------------------------------------------------

    @property
    def kept_size(self) -> int:
        upload = self.upload
        return upload.kept_size if upload is not None else 0

    def body_so_far(self) -> bytes:
        upload = self.upload
        return b"".join(upload.kept) if upload is not None else b""

    def content_so_far(self) -> bytes:
        data = self.body_so_far()
        if self.head.length != CHUNKED:
            return data
        framing = Body(CHUNKED, decode=True)
        framing.feed(data)
        return framing.decoded()

    def ask_for_body(self) -> None:
        client = self.client
        if client.reading_paused:
            client.resume_reading()
        if self.head.expects_continue and not self.bytes_in and not self.interims:
            client.transport.write(CONTINUE)

    @property
    def client_transport(self) -> asyncio.Transport:
        return self.client.transport

    def check_idle(self, now: float) -> None:
        if self.phase != PENDING or self.request_done:
            Exchange.check_idle(self, now)
        elif self.upload is not None and now < (due := self.upload.due(self)):
            self.set_timer(due)
        else:
            note_stalled(self, now)
            self.reply(Reply("timeout", STALLED))

    @property
    def conn(self) -> UpstreamEnd | None:
        """The connection of the attempt under way."""
        attempt = self.attempt
        return cast("UpstreamEnd | None", attempt.conn) if attempt is not None else self.relay

    def client_gone(self) -> None:
        """The client closed or reset its connection: nobody waits for this any more."""
        if self.phase < TUNNEL:
            self.status = CLIENT_LEFT
            self.note("client_left", {"while": PHASES[self.phase][0].lower()})
            cluster, attempt = self.cluster, self.attempt
            if cluster.watchers and attempt is not None and self.phase == SENT and not self.chain.patient:
                waited = self.listener.clock() - attempt.began
                cluster.balancer.abandoned(attempt.endpoint, waited)
                if cluster.outliers is not None:
                    cluster.outliers.abandoned(attempt.endpoint, waited)
        self.abort()

    def client_stalls(self) -> bool:
        if self.request_done or self.phase != SENT or self.client.reading_paused:
            return False
        return bool(self.bytes_in or self.interims or not self.head.expects_continue)

    # -- tries -----------------------------------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        if attempt.began >= self.deadline:
            self.note("no_time_left", {})
            self.reply(Reply("timeout", f"no time was left to ask {self.listener.name}"))
            return
        pool = self.pool
        conn = None
        if not self.fresh:
            conn = pool.take(attempt.endpoint, self.method in IDEMPOTENT)
        if conn is not None:
            self.connected(attempt, conn, attempt.began)
        else:
            chain = self.chain
            attempt.deadline = min(self.deadline, attempt.began + min(chain.timeout.connect, chain.patience))
            self.set_timer(due(self) if self.hedge_at else attempt.deadline)
            pool.connect(self, attempt)

    def connected(self, attempt: Attempt, conn: UpstreamEnd, now: float) -> None:
        """Send the head and what has arrived of the body. ``timeout.request`` and the breaker's share of it run."""
        client = self.client
        if client.reading_paused:
            client.resume_reading()  # before the writes, which may pause it again
            if self.upload is not None:
                self.upload.resumed(self)
        if self.phase != SENT:
            self.phase = SENT
        attempt.conn = conn
        attempt.kept = conn.reused
        conn.exchange = self
        conn.attempt = attempt
        attempt.sent = now
        deadline = attempt.began + self.chain.patience
        if deadline > self.deadline:
            deadline = self.deadline
        attempt.deadline = deadline
        if self.upload is not None:
            self.upload.begin(self, conn)
        else:  # as with_time() does, without a call
            left = int((deadline - now) * 1000)
            conn.transport.write(self.head.ending_in(LINES.get(left) or line_of(left)))
        client.timer.set(due(self) if self.hedge_at else deadline)

    def lost(self, attempt: Attempt, conn: UpstreamEnd, cleanly: bool) -> None:
        """The upstream's connection was closed or (not ``cleanly``) broke."""
        if self.phase == SENT:
            attempt.conn = None
            raced = conn.reused and not conn.buffer and not self.interims
            if raced and self.rival is None and again_after_race(self):
                return
            self.try_failed(attempt, RACE if raced and self.rival is not None else RESET)
        elif self.phase == ANSWERING:
            download = self.download
            # Whoever closes without having read everything resets the connection; that is no sign of a part missing.
            if (cleanly or not self.request_done) and download is not None and download.body.closed():
                attempt.conn = None
                self.finish()
            else:
                self.note("cut_off", {"endpoint": attempt.endpoint.address, "bytes": self.bytes_out})
                self.error = "upstream_reset"
                attempt.cause = "reset"
                self.cluster.failed(
                    attempt.endpoint, False, "reset", "it closed the connection in the middle of an answer"
                )
                self.abort()
        elif self.phase == TUNNEL:
            self.abort()  # an orderly end is an EOF from each side

    def cut(self) -> None:
        if self.attempt is not None:
            self.cut_one(self.attempt)
        if self.rival is not None:
            self.cut_one(self.rival)

    def cut_one(self, attempt: Attempt) -> None:
        conn = cast("UpstreamEnd | None", attempt.conn)
        if conn is not None:
            attempt.conn = None
            conn.close()
        attempt.stop_connecting()

    # -- the answer ------------------------------------------------------------------------------------------------

    def malformed(self, attempt: Attempt, error: ProtocolError) -> None:
        """What came from the upstream is not HTTP, or is ambiguous."""
        self.cut_one(attempt)
        attempt.problem = str(error)
        if self.phase == SENT:
            self.try_failed(attempt, MALFORMED)
        else:
            self.note("bad_answer", {"endpoint": attempt.endpoint.address, "problem": attempt.problem})
            self.error = "bad_upstream"
            attempt.cause = "malformed"
            self.cluster.remember(attempt.endpoint, attempt.cause, attempt.problem)
            self.abort()

    def interim(self, attempt: Attempt, head: ResponseBlock) -> None:
        """A 1xx answer: forwarded as it comes, but never to an HTTP/1.0 client (RFC 9110 §15.2)."""
        self.interims += 1
        if self.interims > MAX_INTERIMS:
            self.malformed(attempt, ProtocolError(f"more than {MAX_INTERIMS} interim answers", "bad_upstream"))
        elif self.version == 1:
            self.client.transport.write(head.raw)

    def answered(self, attempt: Attempt, conn: UpstreamEnd, head: ResponseBlock, rest: bytes) -> None:
        """The final head, with what came behind it."""
        status = head.status
        endpoint = attempt.endpoint
        attempt.status = status
        if self.cluster.watchers or self.head.asks_load:
            heard(self, attempt, head)
        if status >= 400:
            judge(self, attempt, head)
        elif endpoint.failures or endpoint.ejections:  # else there is nothing to say
            self.cluster.succeeded(endpoint)
        if self.hedge_at:
            self.attend(attempt)
        verdict: Again | Reply | Answer | None = None
        for it in self.chain.on_answer:
            said = it.on_answer(self, head)
            if said is not None:
                verdict = said if verdict is None else weightier(verdict, said)
        if verdict is not None:
            drop(self, attempt, conn, head, rest)
            self._instead(verdict)
            return
        if self.hedge_at:
            settle(self)
        length = head.length
        if status == 101 or length != len(rest) or (rest and self.chain.sees_bodies):
            pass_on(self, attempt, conn, head, rest)
            return
        # All of it is here: the common case.
        raw = head.raw
        self.status = status
        self.answer = head
        if status >= 400 or not (self.version and self.keep_client and self.request_done) or self.listener.draining:
            raw = onward(self, head)
        self.client.transport.write(raw + rest)
        self.bytes_out += length
        self.listener.stats.bytes_out += length
        now = self.listener.clock()
        let_go(self, attempt, conn, head, now)
        if self.end(now):
            self.client.exchange_done(self.keep_client, not self.request_done, self.ended)

    def _instead(self, verdict: Again | Reply | Answer) -> None:
        """The answer that has come does not go to the client; this is done in its place."""
        self.leave_endpoint()
        if isinstance(verdict, Reply):
            self.reply(verdict)
        elif isinstance(verdict, Answer):
            self.give(verdict)
        elif self.attempt is not None:
            go_on(self)
        else:
            self.retry_later(verdict)

    # -- ends ------------------------------------------------------------------------------------------------------

    def reply(self, reply: Reply) -> None:
        if self.phase >= ANSWERING:
            if self.phase != ENDED:  # a part of an answer is out: no other can follow it
                self.note("refused", {"code": reply.code, "message": reply.message})
                self.error = reply.code
                self.abort()
            return
        self.cut()
        self.note("refused", {"code": reply.code, "message": reply.message})
        for hook in self.chain.on_reply:
            verdict = hook(self, reply)
            if verdict is not None:
                if not isinstance(verdict, Wait):
                    self.give(verdict)
                return
        self.error = reply.code
        keep = self.keep_client and self.request_done and not self.listener.draining
        self.keep_client = keep
        self.status = reply.status
        if self.attempts > 1 and self.retried < 0:
            self.retried = self.attempts
        line = given_up(self) if self.retried >= 0 else b""
        name, head_only = self.listener.name, self.method == "HEAD"
        self.client.transport.write(
            render(reply, name, self.request_id, close=not keep, head_only=head_only, line=line)
        )
        self.finish()

    def give(self, answer: Answer) -> None:
        self.respond(answer.status, own_head(answer, self.request_id), answer.body)

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
        self.client.exchange_done(self.keep_client, unread, self.ended)

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
            self.client.exchange_done(False, False, self.ended)  # earlier answers may still be on their way

    def reset(self) -> None:
        if cast(object, self.client.transport) is not self.client:  # else its client is in this process
            reset(self.client.transport)
        self.abort()

    def least_read(self, seconds: float) -> float:
        return self.listener.limits.body_rate * seconds if self.phase == ANSWERING else 0.0

    def undelivered(self) -> int:
        conn = self.conn
        return undelivered(self.client.transport) + (undelivered(conn.transport) if conn is not None else 0)

    def set_timer(self, deadline: float) -> None:
        self.client.timer.set(deadline)
