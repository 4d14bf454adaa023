"""Lets as many answers be made at once as a server of language models works at; the others wait in a fair queue."""

from __future__ import annotations

import functools
import itertools
import time
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.cache.fields import values
from sidecar.config.llm import LlmSettings
from sidecar.core.replies import Reply
from sidecar.core.stats import LlmStats
from sidecar.exchange.filter import HELD, Filter, Hook, Site, Wait
from sidecar.exchange.hash_key import by_path
from sidecar.exchange.phases import ANSWERING
from sidecar.exchange.silence import give_up
from sidecar.exchange.story import milliseconds
from sidecar.llm.asked_model import field_of, fit
from sidecar.llm.usage import TAIL, Pieces, usage_of
from sidecar.resilience.backoff import parse_retry_after
from sidecar.resilience.fair_limiter import Candidate, FairLimiter

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request

#: Answers that say that a server has no room; for how many seconds none is sent to it then, unless it says so itself,
#: and at most.
BUSY: Final = (429, 503)
BUSY_SECONDS: Final = 1.0
LONGEST_BUSY: Final = 60.0
#: Codes of a sidecar in front of it that say the same.
_PEERS: Final = (b"", b"overloaded", b"rate_limited")

#: Where an exchange is: it has just come; its body comes; it waits for a slot; it has one; it is over.
NEW, COMES, WAITS, HOLDS, OVER = range(5)


class Visit(Candidate):
    """One exchange's stay. ``asked`` and ``since``: when it asked for a slot, and got one; ``place`` and ``estimate``:
    where it was in the queue at first, and how many seconds that would take."""

    __slots__ = (
        "_filter", "asked", "began", "estimate", "first", "heard", "model", "pieces", "place", "since", "stream",
        "tail", "timer", "wait", "where", "x",
    )  # fmt: skip

    def __init__(self, filter: Llm, x: Request, key: str) -> None:
        Candidate.__init__(self, key)
        self._filter = filter
        self.x = x
        self.where = NEW
        self.wait: Wait | None = None
        self.model = ""
        self.place = 0
        self.estimate = self.asked = self.since = 0.0
        #: Of an answer that counts: its pieces, whether it has begun, and its last bytes.
        self.pieces: Pieces | None = None
        self.began = False
        self.tail = b""
        #: By when its body must begin; where the client of an event stream is in it; when the server was last heard;
        #: and what sends comments, or ends it.
        self.first = 0.0
        self.stream: Any = None
        self.heard = 0.0
        self.timer: Any = None

    def granted(self) -> None:
        self._filter.granted(self)

    def displaced(self) -> None:
        self._filter.displaced(self)


class Llm(Filter):
    """Slots in place of rates, as a model makes so many answers at once and no more. What waits is not late: the time
    for an answer begins with the slot. What the server does for a client that has left is cancelled, as its
    connection is closed then.

    Stands before what waits for an upstream that is away, which keeps its slot meanwhile: those behind it could not
    be served either."""

    name: ClassVar[str] = "llm"
    stateful: ClassVar[bool] = True
    settings_class: ClassVar[Any] = LlmSettings
    doc: ClassVar[str] = "For servers of language models: slots and a fair queue in place of rates."
    key_docs: ClassVar[dict[str, str]] = {
        "outbound": f"{doc} There are none unless it is given, or profile: llm, which is this with its defaults."
    }
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: who calls the model waits in its own sidecar"

    counters: ClassVar[dict[str, str]] = {"heartbeats": "Comments that were put into silent event streams."}

    config: LlmSettings
    #: Finds out about an event stream (:func:`sidecar.http.event_stream.event_stream`). Set by the assembly.
    stream_of: Any = None

    def __init__(self, config: LlmSettings, site: Site) -> None:
        super().__init__(config, site)
        self._clock = site.clock
        self._name = site.name
        self.stats = site.stats.llm = site.stats.llm or LlmStats()
        self.limiter = FairLimiter(config.slots, config.queue)
        #: Those whose body comes.
        self._coming = 0
        #: Until when nothing is sent, as the server has said that it has no room; and what ends that.
        self._shut_until = 0.0
        self._timer: Any = None
        self._read(config)

    def _read(self, config: LlmSettings) -> None:
        self.config = config
        kind, _, header = config.key.partition(":")
        self._kind, self._header = kind, header.encode()

    def adapt(self, config: LlmSettings) -> bool:
        """Other settings, for what comes from now on; who waits or holds a slot goes on."""
        self._read(config)
        self.limiter.resize(config.slots, config.queue)
        return True

    def patience(self) -> float:
        return self.config.first_byte

    def view(self) -> dict[str, Any]:
        limiter = self.limiter
        return {
            "slots": limiter.limit, "used": limiter.active, "waiting": limiter.pending, "queue": limiter.max_pending,
            "keys": limiter.keys, "slot_held_ms": milliseconds(limiter.held),
            "busy_ms": milliseconds(max(self._shut_until - self._clock(), 0.0)),
        }  # fmt: skip

    # -- the way to a slot ---------------------------------------------------------------------------------------------

    def on_request(self, x: Request) -> Reply | Wait | None:
        head = x.head
        if not head.length or head.upgrade:
            return None  # it asks about the server, and for no answer of a model
        visit = x.state[self.place] = Visit(self, x, self._key(x))
        config = self.config
        if x.request_done or self._coming >= config.slots + config.queue:
            return self._enter(x)
        # A slot is not for waiting until a client has sent what it asks, or as much of it as is looked into.
        visit.where = COMES
        self._coming += 1
        x.ahead = itertools.chain([Hook(self._enter)], x.ahead)
        x.ask_for_body()
        return x.take_over()  # the times of an upload are for it

    def on_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        if visit.where == HOLDS:
            visit.first = self._clock() + self.config.first_byte
            self._expect(x, visit)
        elif visit.where == COMES and (x.request_done or x.kept_size > min(self.config.max_body, x.chain.keep)):
            # From the event loop: the client's connection is in the middle of reading.
            x.listener.loop.call_soon(self._body_came, x, visit)

    def _body_came(self, x: Request, visit: Visit) -> None:
        if visit.where == COMES and x.suspended is HELD:
            x.grant()

    def _enter(self, x: Request) -> Reply | Wait | None:
        """Take a slot, wait for one, or find no place to wait in."""
        visit: Visit = x.state[self.place]
        if visit.where == COMES:
            self._coming -= 1
        visit.where = OVER
        config, limiter = self.config, self.limiter
        visit.model = self._model(x)
        visit.asked = now = self._clock()
        if limiter.shut and now >= self._shut_until:
            limiter.open()
        if limiter.acquire(visit.key):
            self._begin(visit)
            return None
        place = limiter.join(visit)
        if not place:
            x.note("llm_full", self._told())
            return self._refusal("takes no more", limiter.pending)
        visit.where = WAITS
        visit.place = place
        visit.estimate = limiter.estimate(place)
        self.stats.waiting += 1
        until, which = min(
            (now + config.queue_timeout, "llm.queue_timeout"),
            (x.started + (x.chain.timeout.total or inf), "timeout.total"),
            (x.started + x.granted, "x-sidecar-deadline"),
        )
        detail = {"place": place, "estimate_ms": milliseconds(visit.estimate), "which": which}
        x.note("llm_wait", {**detail, "wait_ms": milliseconds(max(until - now, 0.0)), **self._told()})
        self._look_again(x)
        refusal = self._refusal(f"had no slot free in time (at first it was number {place} in the queue)", place)
        visit.wait = Wait(until, refusal)
        return visit.wait

    def _begin(self, visit: Visit) -> None:
        """It has a slot: from now on the server is waited for."""
        x = visit.x
        visit.where = HOLDS
        visit.since = now = self._clock()
        self.stats.used += 1
        self.stats.of(visit.model).queued.observe(now - visit.asked)
        # What comes of an upload from now on begins that time anew. A caller's own is for the head alone.
        visit.first = now + self.config.first_byte
        x.deadline = min(visit.first, x.started + min(x.granted, x.chain.timeout.total or inf))

    def granted(self, visit: Visit) -> None:
        """A slot has become free, and is its."""
        x = visit.x
        self.stats.waiting -= 1
        if x.suspended is not visit.wait:  # its time was over, and something else is done about it
            visit.where = OVER
            self.limiter.release(visit.key)
            return
        self._begin(visit)
        x.note("llm_passed", {})
        x.grant()

    def displaced(self, visit: Visit) -> None:
        """Another one has its place. It is told from the event loop: it has nothing to do with who has led to this."""
        self.stats.waiting -= 1
        visit.where = OVER
        visit.x.listener.loop.call_soon(self._displaced, visit)

    def _displaced(self, visit: Visit) -> None:
        x = visit.x
        if x.suspended is visit.wait:
            x.note("llm_displaced", self._told())
            x.reply(self._refusal("gives its place in the queue to those who have fewer there", self.limiter.pending))

    def _leave(self, visit: Visit) -> None:
        """Give back what it has."""
        where, visit.where = visit.where, OVER
        if where == COMES:
            self._coming -= 1
        elif where == WAITS:
            self.stats.waiting -= 1
            self.limiter.leave(visit)
        elif where == HOLDS:
            self.stats.used -= 1
            # How long a slot is held is known by answers, not by errors.
            well = visit.x.status == 200 and not visit.x.error
            self.limiter.release(visit.key, self._clock() - visit.since if well else 0.0)
        if self._timer is not None and not self.limiter.pending:
            self._timer.close()
            self._timer = None

    def _key(self, x: Request) -> str:
        kind = self._kind
        if kind == "header":
            value = x.head.get(self._header)
            return value.decode("latin-1") if value else x.client_ip
        return x.client_ip if kind == "ip" else by_path(x) if kind == "path" else ""

    def _model(self, x: Request) -> str:
        kind, _, name = self.config.model.partition(":")
        if kind == "json":
            return field_of(x.content_so_far()[: self.config.max_body], name)
        return fit(((x.head.get(name.encode()) or b"") if kind == "header" else x.head.path).decode("latin-1"))

    def _told(self) -> dict[str, Any]:
        limiter = self.limiter
        return {
            "active": limiter.active, "slots": limiter.limit, "pending": limiter.pending, "queue": limiter.max_pending,
            "queue_timeout_ms": milliseconds(self.config.queue_timeout),
        }  # fmt: skip

    def _refusal(self, what: str, place: int) -> Reply:
        limiter = self.limiter
        retry = min(max(limiter.estimate(place), 1.0), LONGEST_BUSY)
        state = f"{limiter.active} answers are being made and {limiter.pending} requests wait"
        return Reply("overloaded", f"{self._name} {what}: {state}", retry)

    # -- a server without room -----------------------------------------------------------------------------------------

    def _busy(self, x: Request, head: ResponseHead) -> None:
        """The server is asked nothing for a while, if there is no other one."""
        cluster = x.cluster
        if head.peer_error not in _PEERS or len(cluster.eligible) > 1:
            return
        told = head.fields.get(b"retry-after")
        seconds = parse_retry_after(told, time.time()) if told is not None else None
        seconds = min(BUSY_SECONDS if seconds is None else seconds, LONGEST_BUSY)
        x.note("llm_busy", {"status": head.status, "again_in_ms": milliseconds(seconds)})
        self._shut_until = max(self._shut_until, self._clock() + seconds)
        self.limiter.shut = True
        if self.limiter.pending:
            self._look_again(x)

    def _look_again(self, x: Request) -> None:
        """Let those who wait in when the server may be asked again."""
        if self.limiter.shut:
            self._timer = self._timer or x.listener.wheel.timer(self._open)
            self._timer.set(self._shut_until)

    def _open(self) -> None:
        if self._clock() < self._shut_until and self._timer is not None:
            self._timer.set(self._shut_until)
        else:
            self.limiter.open()

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_answer(self, x: Request, head: ResponseHead) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        if head.status in BUSY:
            self._busy(x, head)
        if visit.place:
            head.add(b"x-sidecar-queue-position", b"%d" % visit.place)
            head.add(b"x-sidecar-queue-estimate", b"%.1f" % visit.estimate)
            head.add(b"x-sidecar-queue-time", b"%.3f" % (visit.since - visit.asked))
        visit.began, visit.tail = False, b""
        self._still(visit)
        x.listener.loop.call_soon(self._expect, x, visit)
        well = head.status == 200
        visit.stream = self.stream_of(x, head) if well and self.stream_of is not None else None
        visit.pieces = Pieces(b",".join(values(head.as_http1(), b"content-type")).lower()) if well else None

    def _expect(self, x: Request, visit: Visit) -> None:
        """A head alone, if that is all that has come, is no first byte: its time goes on, whatever a silence may be."""
        if x.phase == ANSWERING and not visit.began:
            x.touched = max(x.touched, visit.first)
            self._listen(visit)

    def on_answer_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        began, visit.began = visit.began, True
        self._listen(visit)
        if visit.pieces is None:
            return
        counts = self.stats.of(visit.model)
        if not began and x.attempt is not None:
            counts.first_byte.observe(self._clock() - x.attempt.began)
        counts.chunks += visit.pieces.take(data if visit.stream is None else visit.stream.take(data))
        visit.tail = (visit.tail + data)[-TAIL:]

    def _listen(self, visit: Visit) -> None:
        """Something has come, or nothing yet: the silence begins."""
        visit.heard = self._clock()
        self._wake(visit, inf if visit.began else visit.first)

    def _wake(self, visit: Visit, over: float) -> None:
        """Look at the silence when a comment is due, or that time is over."""
        beat = self.config.heartbeat if visit.stream is not None else 0.0
        due = min(self._clock() + beat, over) if beat else over
        if due == inf:
            self._still(visit)
            return
        if visit.timer is None:
            visit.timer = visit.x.listener.wheel.timer(functools.partial(self._beat, visit))
        visit.timer.set(due)

    def _beat(self, visit: Visit) -> None:
        """The stream is silent: say so to its client. Those comments must not keep alive what is dead."""
        x, now, config, stream = visit.x, self._clock(), self.config, visit.stream
        if x.phase != ANSWERING:
            return
        if stream is not None and stream.blocked(x):
            visit.heard = now  # it is the client that is waited for, which is seen to elsewhere
        over = visit.heard + (config.between_chunks or inf) if visit.began else visit.first
        if now >= over:
            which = "between_chunks" if visit.began else "first_byte"
            give_up(x, f"llm.{which}", getattr(config, which))
            return
        if stream is not None and config.heartbeat and stream.beat(x):
            self.count("heartbeats")
        self._wake(visit, over)

    def _still(self, visit: Visit) -> None:
        """Nobody looks at the silence any more."""
        if visit.timer is not None:
            visit.timer.close()
            visit.timer = None

    def on_reply(self, x: Request, reply: Reply) -> None:
        if (visit := x.state[self.place]) is not None:
            self._leave(visit)  # whatever comes now is not from that server

    def on_end(self, x: Request) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        self._still(visit)
        if visit.tail and visit.pieces is not None:
            tokens, seconds = usage_of(visit.tail)
            counts = self.stats.of(visit.model)
            counts.tokens += tokens
            if tokens:
                counts.seconds += seconds or max(self._clock() - visit.since, 0.0)
        self._leave(visit)
