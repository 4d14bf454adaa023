"""Answers from memory what was answered before (RFC 9111), and lets those who ask the same wait for one answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.cache.asked import PLAIN, Asked, Reader
from sidecar.cache.coming import Coming, Room
from sidecar.cache.fields import lines
from sidecar.cache.flights import Flights
from sidecar.cache.invalidation import SAFE, Caches, changes, resource_key
from sidecar.cache.json_key import json_key
from sidecar.cache.store import Store
from sidecar.cache.stored import Stored, read, renewed
from sidecar.cache.validators import confirms, unmodified
from sidecar.cache.visit import BYPASS, CLIENT_LEFT, ILL, METHOD, MISS, REQUEST, STALE, UNREACHED, VARY, Visit
from sidecar.config.cache import BY_BODY, BY_TARGET, CacheSettings
from sidecar.core.replies import Reply
from sidecar.exchange.filter import HELD, KEEP, Again, Answer, Filter, Hook, Site, Wait
from sidecar.exchange.tries import STALLED

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request

#: Answers that are kept, at most.
MOST_ENTRIES: Final = 200_000
#: Seconds for which a body may take to come before the cache is not asked.
BODY_SECONDS: Final = 5.0
_FIELD: Final = b"cache-status"


class Cache(Filter):
    """Stands before all that is there to spare the upstream, as what it answers costs that nothing; and is asked
    after all of it when there is an error, for an answer that is not fresh any more."""

    name: ClassVar[str] = "cache"
    stateful: ClassVar[bool] = True
    settings_class: ClassVar[Any] = CacheSettings
    doc: ClassVar[str] = (
        "Keep answers in memory, as RFC 9111 allows it, and give them again; ask once for what many ask at once."
    )
    key_docs: ClassVar[dict[str, str]] = dict.fromkeys(
        ("inbound", "outbound"), f"{doc} There is none unless it is given, here or for a route."
    )

    config: CacheSettings
    #: Whether a body's end can be told, and the body (:mod:`sidecar.http.answer_body`). Set by the assembly.
    can_tell: Any = None
    #: The last ordinary request that was answered from memory, its resource, the answer (:mod:`sidecar.http.quick`).
    latest: Any = None
    whole: Any = None

    def __init__(self, config: CacheSettings, site: Site, wall: Callable[[], float] = time.time) -> None:
        super().__init__(config, site)
        self._clock = site.clock
        self.wall = wall
        self._counts = site.stats.cache
        self.store = Store(MOST_ENTRIES, config.max_bytes)
        self._room = Room(config.max_bytes)
        self._flights = Flights()
        #: All caches of the listener, and what has changed. The assembly sets what all of them share.
        self.caches = Caches((self,))
        self._read(config)

    def _read(self, config: CacheSettings) -> None:
        self.config = config
        self._by_target = config.methods & BY_TARGET if "GET" not in config.methods else BY_TARGET
        #: Methods whose requests are known by their bodies.
        self.by_body = config.methods & BY_BODY
        self._max_body: int = config.max_body
        self._reader = Reader(config.identity, config.authorised == "apart")

    def adapt(self, config: CacheSettings) -> bool:
        """Other settings, for what comes from now on. What is kept stays, unless other requests are the same now."""
        if any(getattr(config, it) != getattr(self.config, it) for it in ("key", "authorised", "identity", "when")):
            self.store.clear()
        self.store.bound(config.max_bytes)
        self._room.most = config.max_bytes
        self._read(config)
        return True

    def view(self) -> dict[str, Any]:
        store = self.store
        return {
            "entries": len(store), "bytes": store.size, "max_bytes": self.config.max_bytes, "dropped": store.dropped,
            "under_way": len(self._flights),
        }  # fmt: skip

    # -- requests ------------------------------------------------------------------------------------------------------

    def on_request(self, x: Request) -> Answer | Wait | None:
        head = x.head
        method = x.method
        if method in self._by_target and not head.length and not head.upgrade:
            return self._look(x)
        visit = x.state[self.place] = Visit(BYPASS if method in self.by_body or method in self._by_target else METHOD)
        if method not in self.by_body or head.upgrade or not head.length or head.length > KEEP:
            return None
        if x.request_done:
            return self._by_its_body(x)
        wait = visit.wait = Wait(min(x.deadline, self._clock() + BODY_SECONDS))
        x.ask_for_body()
        return wait

    def on_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        here = x.request_done or x.kept_size > KEEP
        if here and visit is not None and visit.wait is not None and visit.flight is None:
            # From the event loop: the client's connection is in the middle of reading.
            x.listener.loop.call_soon(self._body_came, x, visit)

    def _body_came(self, x: Request, visit: Visit) -> None:
        if visit.wait is None or x.suspended is not visit.wait:
            return
        visit.wait = None
        verdict = self._by_its_body(x) if x.request_done and x.kept_size <= KEEP else None
        if verdict is None:
            x.grant()
        elif isinstance(verdict, Answer):
            x.give(verdict)
        elif verdict is not HELD:
            x.take_over(verdict)

    def _by_its_body(self, x: Request) -> Answer | Wait | None:
        digest = json_key(x.method, x.head.as_http1(), x.body_so_far(), self.config.when)
        return None if digest is None else self._look(x, digest)

    def _look(self, x: Request, digest: bytes = b"") -> Answer | Wait | None:
        """Answer from what is kept; else wait for somebody's answer, or go on. ``digest``: it is known by its body."""
        head = x.head
        raw = head.as_http1()
        asked = self._reader.read(raw)
        x.state[self.place] = None
        if asked.bypass or (asked.conditional and x.method not in SAFE):
            x.state[self.place] = Visit(BYPASS)
            return None
        key = resource_key(head.get(b"host") or b"", head.target, asked.secure, bool(digest))
        whose = asked.whose + digest
        found: Stored | None = self.store.find(key, raw, whose)
        if found is not None and asked.personal and not found.public:
            found = None
        now = self._clock()
        if found is not None and found.serves(asked.wish, now):
            self._counts["hit" if found.fresh > found.aged(now) else "stale"] += 1
            if asked is PLAIN:
                self.latest = (x, key, found)
            return self._hit(x, found, now, raw, asked, b"hit")
        x.state[self.place] = visit = Visit(MISS, key, raw, asked, self.caches.changes.number)
        visit.by_body, visit.whose, visit.kept = bool(digest), whose, found
        if found is not None:
            visit.why = REQUEST if found.fresh > found.aged(now) and not found.no_cache else STALE
        elif not digest and self.store.variant(key, raw, whose) is not None:
            visit.why = VARY
        if asked.wish.only_kept:
            return Answer(504, [(_FIELD.decode(), 'sidecar; detail="only-if-cached"')])
        return self._join(x, visit, now)

    def _hit(self, x: Request, found: Stored, now: float, raw: bytes, asked: Asked, told: bytes) -> Wait:
        """Answer it now."""
        status, body = found.status, found.body
        if asked.conditional and status == 200 and unmodified(raw, found.etag, found.modified, now):
            status, body = 304, b""
        age = found.aged(now)
        x.respond(
            status,
            b"%bage: %d\r\ncache-status: sidecar; %b; ttl=%d\r\nx-request-id: %b\r\n"
            % (found.head(status), age, told, found.fresh - age, x.request_id.encode()),
            body,
        )
        return HELD

    # -- many who ask the same -----------------------------------------------------------------------------------------

    def _join(self, x: Request, visit: Visit, now: float) -> Wait | None:
        """Wait for the answer to the same request, if one is under way that can be shared; else go on."""
        patience = self.config.collapse
        asked = visit.asked
        alone = asked.personal or asked.wish.strict or (asked.conditional and visit.kept is None)
        if patience and not alone and x.method != "HEAD" and not self._flights.barred(visit.key, visit.whose, now):
            visit.vary = self.store.variant(visit.key, visit.raw, visit.whose)
            visit.flight, first = self._flights.join((visit.key, visit.whose, visit.vary))
            if not first:
                visit.flight.waiting[x] = visit
                if not visit.until:
                    visit.until = now + min(patience, (_end(x) - now) / 2)
                    x.ahead = itertools.chain([Hook(self._goes_on)], x.ahead)
                wait = visit.wait = Wait(visit.until)
                return wait
            visit.leads = True
        visit.ask(x.head)
        return None

    def _goes_on(self, x: Request) -> None:
        """Whoever has waited is sent, whatever has ended that: its time for an answer begins now. What its caller
        grants and ``timeout.total`` have gone on."""
        visit: Visit = x.state[self.place]
        if visit.wait is not None:  # nothing has come in time
            visit.wait = None
            assert visit.flight is not None
            visit.flight.waiting.pop(x, None)
            visit.flight = None
        x.deadline = min(self._clock() + x.chain.timeout.request, _end(x))

    def _landed(self, x: Request, visit: Visit, kept: bool) -> None:
        """What others wait for has come, or will not. When its client has left, the next one is sent."""
        flight = visit.flight
        assert flight is not None
        visit.leads = False
        while not kept and x.status == CLIENT_LEFT and flight.waiting:
            following = next(iter(flight.waiting))
            then: Visit = flight.waiting.pop(following)
            if following.suspended is then.wait:
                then.leads, then.wait = True, None
                then.ask(following.head)
                following.grant()
                return
        for other, theirs in self._flights.end(flight).items():
            x.listener.loop.call_soon(self._woken, other, theirs, kept)

    def _pass(self, x: Request, visit: Visit) -> None:
        """What others wait for is not for them: for a time nobody waits."""
        self._flights.bar(visit.key, visit.whose, self._clock())
        self._landed(x, visit, False)

    def _woken(self, x: Request, visit: Visit, kept: bool) -> None:
        """Whom it waited for has an answer, which is kept or is not for others."""
        if visit.wait is None or x.suspended is not visit.wait:
            return
        visit.wait = None
        now = self._clock()
        found: Stored | None = self.store.find(visit.key, visit.raw, visit.whose) if kept else None
        if found is not None and found.serves(visit.asked.wish, now):
            visit.outcome = "collapsed"
            self._hit(x, found, now, visit.raw, visit.asked, b"fwd=%b; collapsed" % visit.why)
            return
        visit.flight = None
        if kept and found is None and visit.vary is None:  # now it is known by what its answers vary
            wait = self._join(x, visit, now)
            if wait is not None:
                x.take_over(wait)
                return
        elif found is not None:
            visit.kept = found
            visit.ask(x.head)
        x.grant()

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_answer(self, x: Request, head: ResponseHead) -> Again | Answer | None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return None
        visit.drop()
        visit.passes = False  # that was said of a try before this one
        status = head.status
        now = self._clock()
        peer = head.peer_error.decode("latin-1")
        ill = status in ILL or peer in UNREACHED
        kept = visit.kept
        old = kept if ill and kept is not None and (status != 500 or kept.grace is not None) else None
        if old is not None and old.consoles(visit.asked.wish, now, self.config.stale):
            return self._console(x, visit, old, now, peer or str(status))
        if status == 304 and visit.validates:
            return self._validated(x, visit, head, now)
        if not visit.by_body and changes(x.method, status):
            target = x.head.target
            self.caches.forget(x.head.get(b"host") or b"", target, head.as_http1(), x.method not in self.by_body)
        visit.outcome = "bypass" if visit.why in (METHOD, BYPASS) else "miss"
        told = b"sidecar; fwd=" + visit.why
        if visit.key:
            stored = self._worth_keeping(x, visit, head, now)
            if stored is not None:
                visit.coming = Coming(stored, head.length, x.attempt, self._room)
                told += b"; stored"
            visit.passes = stored is None and not ill
            if visit.passes and visit.leads and status < 400:  # an error may be tried again, until its body goes on
                self._pass(x, visit)
        head.add(_FIELD, told)
        return None

    def _worth_keeping(self, x: Request, visit: Visit, head: ResponseHead, now: float) -> Stored | None:
        status = head.status
        if x.method == "HEAD" or head.peer_error or head.length > self._max_body or not self.can_tell(x, head):
            return None
        if visit.by_body and status != 200:
            return None
        stored = read(head.as_http1(), status, now, self.wall(), _delay(x, now), self.config.ttl)
        return stored if stored.useful() and (stored.public or not visit.asked.personal) else None

    def _validated(self, x: Request, visit: Visit, head: ResponseHead, now: float) -> Again | Answer:
        """What is kept is still right, the upstream says."""
        kept = visit.kept
        assert kept is not None
        raw = head.as_http1()
        new = {name.lower(): value for name, value in lines(raw)}
        if not confirms(kept.etag, kept.modified, new.get(b"etag", b""), new.get(b"last-modified", b"")):
            self.store.discard(visit.key, visit.raw, visit.whose)
            visit.kept = None
            visit.ask_as_it_came(x.head)
            return Again(0.0, "other_version")
        fresh = renewed(kept, raw, now, self.wall(), _delay(x, now), self.config.ttl)
        if fresh.useful() and (fresh.public or not visit.asked.personal):
            visit.stored = self._put(visit, fresh)
        else:
            self.store.discard(visit.key, visit.raw, visit.whose)
        visit.outcome = "revalidated"
        cookies = [it for it in lines(raw) if it[0].lower() == b"set-cookie"]
        return self._answer(x, visit, fresh, now, f"sidecar; fwd={visit.why.decode()}; fwd-status=304", cookies)

    def _answer(
        self, x: Request, visit: Visit, kept: Stored, now: float, told: str, more: list[tuple[bytes, bytes]]
    ) -> Answer:
        same = visit.asked.conditional and kept.status == 200 and unmodified(visit.raw, kept.etag, kept.modified, now)
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in [*kept.fields, *more]]
        fields += [("age", str(int(kept.aged(now)))), (_FIELD.decode(), told)]
        return Answer(304, fields) if same else Answer(kept.status, fields, kept.body)

    def _console(self, x: Request, visit: Visit, kept: Stored, now: float, instead_of: str) -> Answer:
        visit.outcome = "stale"
        x.note("stale", {"age_s": int(kept.aged(now)), "instead_of": instead_of})
        left = int(kept.fresh - kept.aged(now))
        return self._answer(x, visit, kept, now, f'sidecar; hit; ttl={left}; detail="{instead_of}"', [])

    def on_answer_body(self, x: Request, data: bytes) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is not None and visit.leads and visit.passes:  # an error, and it is not tried again
            self._pass(x, visit)
        if visit is not None and visit.coming is not None and not visit.coming.take(data, self._max_body):
            visit.drop()
            if visit.leads:
                self._pass(x, visit)

    def on_reply(self, x: Request, reply: Reply) -> Answer | None:
        visit: Visit | None = x.state[self.place]
        if visit is None or not visit.key:
            return None
        kept, now = visit.kept, self._clock()
        unreached = reply.code in UNREACHED and reply.message != STALLED
        if unreached and kept is not None and kept.consoles(visit.asked.wish, now, self.config.stale):
            return self._console(x, visit, kept, now, reply.code)
        visit.passes = False
        visit.ask_as_it_came(x.head)  # another upstream may be asked instead
        return None

    def on_end(self, x: Request) -> None:
        visit: Visit | None = x.state[self.place]
        if visit is None:
            return
        coming = visit.coming
        if coming is not None and x.attempt is coming.attempt and not x.error and x.status == coming.stored.status:
            body = self.whole(coming.length, b"".join(coming.pieces))
            if body is not None:
                coming.stored.body = body
                visit.stored = self._put(visit, coming.stored)
        visit.drop()
        if visit.leads and visit.passes and not x.error and x.status != CLIENT_LEFT:
            self._pass(x, visit)
        elif visit.leads:
            self._landed(x, visit, visit.stored)
        elif visit.flight is not None:
            visit.flight.waiting.pop(x, None)
        self._counts[visit.outcome] += 1

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _put(self, visit: Visit, stored: Stored) -> bool:
        """Keep it, unless it was asked for before the resource changed."""
        if self.caches.changes.since(visit.key, visit.at):
            return False
        return self.store.put(visit.key, visit.raw, stored.vary, stored, stored.size, visit.whose)

    def forget(self, keys: set[bytes]) -> None:
        """Forget these resources, which have changed; nobody is to wait any more for what was asked of them before."""
        for key in keys:
            self.store.remove(key)
        self._flights.close(keys)


def _end(x: Request) -> float:
    """When it is over, whatever it has waited for."""
    return x.started + min(x.granted, x.chain.timeout.total or inf)


def _delay(x: Request, now: float) -> float:
    """How long the answer took."""
    return now - x.attempt.began if x.attempt is not None else 0.0
