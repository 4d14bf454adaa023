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
from sidecar.exchange.filter import HELD, Filter, Site, Wait
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
NEW: Final = 0
COMES: Final = 1
WAITS: Final = 2
HOLDS: Final = 3
OVER: Final = 4


class Visit(Candidate):
    """One exchange's stay. ``asked`` and ``since``: when it asked for a slot, and got one; ``place`` and ``estimate``:
    where it was in the queue at first, and how many seconds that would take."""

    __slots__ = (
        "_filter", "asked", "began", "estimate", "heard", "model", "pieces", "place", "since", "stream", "tail",
        "timer", "wait", "where", "x",
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
        #: Of an event stream into which comments may go: where its client is in it, when the server was last heard,
        #: and what sends them.
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
        if x.request_done or head.length > config.max_body or self._coming >= config.slots + config.queue:
            return self._enter(x)
        # A slot is not for waiting until a client has sent what it asks.
        visit.where = COMES
        self._coming += 1
        x.hooks = itertools.chain([self._enter], x.hooks)
        x.ask_for_body()
        return x.take_over()  # the times of an upload are for it

    def on_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is not None and visit.where == COMES and (x.request_done or x.kept_size > self.config.max_body):
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
        x.note("llm_wait", {"place": place, "estimate_ms": milliseconds(visit.estimate), **self._told()})
        self._look_again(x)
        visit.wait = Wait(
            min(x.started + x.granted, now + config.queue_timeout),
            self._refusal(f"had no slot free in time (at first it was number {place} in the queue)", place),
        )
        return visit.wait

    def _begin(self, visit: Visit) -> None:
        """It has a slot: from now on the server is waited for."""
        x = visit.x
        visit.where = HOLDS
        visit.since = now = self._clock()
        self.stats.used += 1
        self.stats.of(visit.model).queued.observe(now - visit.asked)
        total = x.chain.timeout.total
        x.deadline = min(now + self.config.first_byte, x.started + x.granted)
        if total:
            x.deadline = min(x.deadline, x.started + total)

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
            return field_of(x.body_so_far()[: self.config.max_body], name)
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
            if self._timer is None:
                self._timer = x.listener.wheel.timer(self._open)
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
        visit.began = False
        visit.tail = b""
        self._still(visit)
        x.listener.loop.call_soon(self._expect, x, visit)
        if self.config.heartbeat and self.stream_of is not None and head.status == 200:
            visit.stream = self.stream_of(x, head)
            if visit.stream is not None:
                self._listen(visit)
        visit.pieces = (
            Pieces(b",".join(values(head.as_http1(), b"content-type")).lower()) if head.status == 200 else None
        )

    def _expect(self, x: Request, visit: Visit) -> None:
        """A head alone, if that is all that has come, is no first byte: the silence behind it may be as long."""
        if x.phase == ANSWERING and not visit.began:
            x.touched = max(x.touched, x.deadline - x.chain.timeout.idle)

    def on_answer_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        began, visit.began = visit.began, True
        if visit.pieces is None:
            return
        if visit.stream is not None:
            visit.stream.take(data)
            self._listen(visit)
        counts = self.stats.of(visit.model)
        if not began:
            attempt = x.attempt
            if attempt is not None:
                counts.first_byte.observe(self._clock() - attempt.began)
        counts.chunks += visit.pieces.take(data)
        visit.tail = (visit.tail + data)[-TAIL:]

    def _listen(self, visit: Visit) -> None:
        """Something has come, or nothing yet: the silence begins."""
        visit.heard = self._clock()
        if visit.timer is None:
            visit.timer = visit.x.listener.wheel.timer(functools.partial(self._beat, visit))
        visit.timer.set(visit.heard + self.config.heartbeat)

    def _beat(self, visit: Visit) -> None:
        """The stream is silent: say so to its client. Those comments must not keep alive what is dead."""
        x, now, config = visit.x, self._clock(), self.config
        over = visit.heard + config.between_chunks if config.between_chunks else inf
        if not visit.began:
            over = max(over, x.deadline)
        if x.phase == ANSWERING and now >= over:
            which = "between_chunks" if visit.began else "first_byte"
            give_up(x, f"llm.{which}", getattr(config, which))
        elif x.phase == ANSWERING:
            if visit.stream.beat(x):
                self.count("heartbeats")
            visit.timer.set(min(now + config.heartbeat, over))

    def _still(self, visit: Visit) -> None:
        """No comments any more."""
        visit.stream = None
        if visit.timer is not None:
            visit.timer.close()
            visit.timer = None

    def on_reply(self, x: Request, reply: Reply) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is not None:
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
