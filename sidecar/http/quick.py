"""Answers from memory what was answered from there before, byte for byte the same request, without an exchange.

An exchange costs more than to find an answer. So the heads of ordinary requests that a cache has answered are
remembered with the answer, and looked up before anything is parsed. What a hit is counted as is the same; it has no
span, no story and no decision, so this is only done where nobody wants one of those, or a line of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.exchange.filter import Chain
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.server import Downstream
    from sidecar.http.listener import HttpListener

#: Heads that are remembered, the bytes of one, and those of an answer's body, at most: what the cache has dropped is in
#: memory until it is asked for here.
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


class Quick:
    """One listener's. ``watched``: somebody wants to know of each exchange; ``new_id`` makes request ids."""

    def __init__(self, listener: HttpListener, watched: Callable[[], bool], new_id: Callable[[], str]) -> None:
        self._listener = listener
        self._stats = listener.stats
        self._clock = listener.clock
        self._watched = watched
        self._new_id = new_id
        #: A request's head → the cache, the key of the resource, the answer.
        self._known: dict[bytes, tuple[Any, bytes, Any]] = {}

    def learn(self, raw: bytes, x: HttpExchange) -> None:
        """A request with that head has been begun; remember it, if a cache has answered it as it would any other that
        is the same."""
        if x.phase != ENDED or x.attempts or x.status != 200 or x.method != "GET" or len(raw) > MOST_BYTES:
            return
        head = x.head
        if x.version != 1 or not x.keep_client or head.granted != inf or not _FIELDS.issuperset(head.fields):
            return
        cache = cache_of(x.chain)
        latest = cache.latest if cache is not None else None
        if latest is None or latest[0] is not x:
            return
        cache.latest = None
        if len(latest[2].body) > MOST_BODY:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[raw] = (cache, latest[1], latest[2])

    def answers(self, client: Downstream, data: bytes) -> bool:
        """Answer it, if that can be done; return whether it was."""
        known = self._known.get(data) if len(data) <= MOST_BYTES else None  # to look for it is to read it all
        if known is None:
            return False
        cache, key, stored = known
        now = self._clock()
        left = stored.fresh - stored.aged(now)
        if left <= 0 or cache.store.find(key, data) is not stored:
            del self._known[data]
            return False
        if client.half_closed or client.paused_writing or self._listener.draining or self._watched():
            return False
        body = stored.body
        client.transport.write(
            b"%bage: %d\r\ncache-status: sidecar; hit; ttl=%d\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (stored.head(), stored.fresh - left, left, self._new_id().encode(), len(body), body)
        )
        stats = self._stats
        stats.cache["hit"] += 1
        stats.requests["GET", 200] += 1
        stats.bytes_out += len(body)
        client.rested(now)
        return True
