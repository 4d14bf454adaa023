"""Answers from memory what was answered from there before, byte for byte the same request, without an exchange.

An exchange costs more than to find an answer. So the heads of ordinary requests that a cache has answered are
remembered with the answer, and looked up before anything is parsed. What a hit is counted as is the same; it has no
span, no story and no decision, so this is only done where nobody wants one of those, or a line of the log.
"""

from __future__ import annotations

from math import floor, inf
from typing import TYPE_CHECKING, Any, Final

from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.cache.store import Store
    from sidecar.cache.stored import Stored
    from sidecar.core.ids import Ids
    from sidecar.core.records import AccessLog
    from sidecar.exchange.filter import Chain
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.server import Downstream
    from sidecar.http.listener import HttpListener
    from sidecar.resilience.sampling import Sampling

#: Heads that are remembered, the bytes of one, and those of an answer's head and of its body, at most: what the cache
#: has dropped is in memory until it is asked for here.
MOST: Final = 1000
MOST_BYTES: Final = 2048
MOST_BODY: Final = 8192
#: Of the fields that a proxy acts upon, those that such a request may have.
_FIELDS: Final = frozenset({b"host", b"connection"})
#: Filters that change nothing of an answer from memory, or that are only asked after it.
_HARMLESS: Final = frozenset(
    {
        "tracing", "request_id", "forwarded", "drain", "timeout", "host", "load_report", "fallback", "cache",
        "rate_limit", "wait", "bulkhead", "circuit_breaker", "retry", "stale", "metrics", "why", "decisions",
        "access_log",
    }
)  # fmt: skip


def cache_of(chain: Chain) -> Any:
    """The chain's cache, if its answers are the same without an exchange."""
    if any(it.guard is not None or it.name not in _HARMLESS for it in chain.filters):
        return None
    return next((it for it in chain.filters if it.name == "cache"), None)


class _Known:
    """An answer to requests with one head. ``begin`` and ``end`` are what is sent before and after the request's id,
    with an age and a rest of freshness that are right before ``until``; ``losses`` are those of the store when it was
    last seen to have the answer."""

    __slots__ = ("_key", "_stored", "begin", "end", "losses", "size", "store", "until")

    def __init__(self, store: Store, key: bytes, stored: Stored) -> None:
        body = stored.body
        self.store = store
        self._key = key
        self._stored = stored
        self.size = len(body)
        self.begin = b""
        self.end = b"\r\ncontent-length: %d\r\n\r\n%b" % (self.size, body)
        self.losses = 0
        self.until = 0.0

    def renew(self, raw: bytes, now: float) -> bool:
        """Look again for the answer to ``raw``, and tell its age now; whether it may be given."""
        stored, store = self._stored, self.store
        age = stored.aged(now)
        left = stored.fresh - age
        if left <= 0 or store.find(self._key, raw) is not stored:
            return False
        self.losses = store.losses
        self.begin = b"%bage: %d\r\ncache-status: sidecar; hit; ttl=%d\r\nx-request-id: " % (stored.head(), age, left)
        # Until one of the two changes.
        self.until = now + min(floor(age) + 1.0 - age, left - floor(left))
        return True


class Quick:
    """One listener's. ``log`` and ``sampling`` say whether somebody wants to know of each exchange; ``recorded``: spans
    of sampled ones are. ``ids`` is where request ids come from."""

    def __init__(self, listener: HttpListener, log: AccessLog, sampling: Sampling, recorded: bool, ids: Ids) -> None:
        self._listener = listener
        self._stats = listener.stats
        self._tally = listener.stats.tally("GET", 200)
        self._clock = listener.clock
        self._log = log
        self._sampling = sampling
        self._recorded = recorded
        self._ids = ids
        #: By the request's head.
        self._known: dict[bytes, _Known] = {}

    def learn(self, raw: bytes, x: HttpExchange) -> None:
        """A request with that head has been begun; remember it, if a cache has answered it as it would any other that
        is the same."""
        if x.phase != ENDED or x.attempts or x.status != 200 or x.method != "GET" or len(raw) > MOST_BYTES:
            return
        head = x.head
        if x.version != 1 or not x.keep_client or head.granted != inf or not _FIELDS.issuperset(head.fields):
            return
        cache = cache_of(x.chain)
        if cache is None:
            return
        latest = cache.latest
        if latest is None or latest[0] is not x:
            return
        cache.latest = None
        stored = latest[2]
        if len(stored.head()) > MOST_BODY or len(stored.body) > MOST_BODY:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[raw] = _Known(cache.store, latest[1], stored)

    def answers(self, client: Downstream, data: bytes) -> bool:
        """Answer it, if that can be done; return whether it was."""
        known = self._known.get(data) if len(data) <= MOST_BYTES else None  # to look for it is to read it all
        if known is None:
            return False
        now = self._clock()
        if (now >= known.until or known.store.losses != known.losses) and not known.renew(data, now):
            del self._known[data]
            return False
        log = self._log
        if log.tap is not None or log.of_good or (self._recorded and self._sampling.share > 0):
            return False  # somebody wants to know of each exchange
        if client.half_closed or self._listener.draining:
            return False
        client.transport.write(known.begin + self._ids.take(32).encode() + known.end)
        stats = self._stats
        stats.cache["hit"] += 1
        self._tally.n += 1
        stats.bytes_out += known.size
        client.rested(now)
        return True
