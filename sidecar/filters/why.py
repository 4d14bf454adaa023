"""Remembers what happened to exchanges that did not simply go well, for those who ask why."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.core.address import Address
from sidecar.core.records import Stories
from sidecar.core.replies import STATUS
from sidecar.exchange.filter import Filter
from sidecar.exchange.story import milliseconds

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.listener import Listener
    from sidecar.exchange.message import RequestHead

#: Characters of a path that are kept.
MOST_PATH: Final = 256
#: What is noted of requests that went well, and are told of all the same: stored, or answered by other means, in place
#: of an error; or late, as there was no upstream at first; or with a fault that was injected.
TOLD: Final = frozenset(("stored", "fallback", "wait", "fault"))
#: Attempts that are told of.
MOST_ATTEMPTS: Final = 20
#: Exchanges between two of the sample, at most: as good as for ever.
MOST_GAP: Final = 1 << 60


class Why(Filter):
    """Behind those that count, when everything about the exchange is known. One that simply went well costs a few
    comparisons; of the others a story is made, from what the exchange has anyway and what was noted of it."""

    name: ClassVar[str] = "why"
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")

    def __init__(self, stories: Stories, rng: random.Random, http: bool) -> None:
        self._stories = stories
        self._rng = rng
        self._http = http
        #: Exchanges that go well until the next one of the sample, and the share that this was drawn for.
        self._left = 0
        self._drawn = -1.0

    def on_end(self, x: Exchange) -> None:
        stories = self._stories
        if not stories.enabled:
            return
        if self._left > 0 and stories.sample == self._drawn:
            self._left -= 1
            began = x.head_at or x.ended
            if x.status < 400 and x.story is None and not (x.error or x.tried) and began - x.started < stories.slow:
                return  # nearly all
            sampled = False
        else:
            sampled = self._draw(stories.sample)
        if sampled or x.error or x.in_vain or x.status >= 499 or _told(x) or self._slow(x):
            if not x.request_id:
                x.request_id = x.listener.new_request_id()  # so that it can be asked for
            stories.put(story_of(x, time.time()))

    def _slow(self, x: Exchange) -> bool:
        """Whether its answer took long to begin. Connections and tunnels live as long as they like."""
        if not self._http:
            return False
        return (x.head_at or x.ended) - x.started >= self._stories.slow and x.status != 101

    def _draw(self, share: float) -> bool:
        """Draw when the next one of the sample comes; whether this one is of it."""
        if share != self._drawn:
            self._drawn = share
            self._left = self._gap(share)
            if self._left > 0:
                self._left -= 1
                return False
        self._left = self._gap(share)
        return True

    def _gap(self, share: float) -> int:
        """How many exchanges there are between two of the sample: each one is in it with the same probability."""
        if share <= 0:
            return MOST_GAP
        if share >= 1:
            return 0
        # log1p, as 1 less a tiny share is 1.
        return int(min(math.log(1.0 - self._rng.random()) / math.log1p(-share), MOST_GAP))


def _told(x: Exchange) -> bool:
    """Whether it is worth telling: a peer sidecar answered in place of its app, or one of :data:`TOLD`."""
    if x.status >= 400:
        return x.attempt is not None and bool(x.attempt.peer_error)
    return x.story is not None and any(it.what in TOLD for it in x.story)


def story_of(x: Exchange, wall: float) -> dict[str, Any]:
    """What happened to an exchange that ends now, in plain JSON: without bodies, queries, fields."""
    listener = x.listener
    now = listener.clock()
    head: RequestHead | None = getattr(x, "head", None)
    events = [_attempt(x, attempt) for attempt in x.tried[:MOST_ATTEMPTS]]
    if x.attempt is not None:
        events.append(_attempt(x, x.attempt))
    if x.story is not None:
        events += [{"at_ms": milliseconds(it.at - x.started), "what": it.what, **it.detail} for it in x.story]
    events.sort(key=_order)
    story = _about(listener, x.request_id, wall - (now - x.started), x.client_ip)
    story["method"] = x.method
    if head is not None:
        story["path"] = head.path[:MOST_PATH].decode("latin-1")
    story["status"] = x.status
    story["error"] = x.error
    story["duration_ms"] = milliseconds(now - x.started)
    if x.head_at:
        story["head_ms"] = milliseconds(x.head_at - x.started)
    story["attempts"] = x.attempts
    if x.error or x.tried:
        story["source"] = x.cluster.source()
    if x.chain.number >= 0:
        story["route"] = f"routes[{x.chain.number}]"
        story["own"] = list(x.chain.own)
    if x.trace is not None:
        story["trace_id"] = x.trace.trace_id
    story["events"] = events
    return story


def refusal_of(
    listener: Listener, wall: float, code: str, message: str, request_id: str, client: str
) -> dict[str, Any]:
    """The same of what never became an exchange: it could not be understood, or there was no room for its client."""
    story = _about(listener, request_id or listener.new_request_id(), wall, client)
    story["error"] = code
    if listener.stats.protocol == "http" and code in STATUS:
        story["status"] = STATUS[code]
    story["events"] = [{"at_ms": 0.0, "what": "refused", "code": code, "message": message}]
    return story


def _about(listener: Listener, request_id: str, began: float, client: str) -> dict[str, Any]:
    stats = listener.stats
    return {
        "request_id": request_id,
        "began": round(began, 3),
        "direction": stats.direction,
        "upstream": listener.name,
        "protocol": stats.protocol,
        "client": client,
    }


def _attempt(x: Exchange, attempt: Attempt) -> dict[str, Any]:
    """An attempt as an event: when it began, how long it was connecting (kept: it had one) and then waited."""
    endpoint = attempt.endpoint
    over = attempt.began + attempt.took if attempt.took else x.head_at or x.listener.clock()
    told: dict[str, Any] = {
        "at_ms": milliseconds(attempt.began - x.started),
        "what": "attempt",
        "endpoint": endpoint.address,
        "took_ms": milliseconds(over - attempt.began),
    }
    if endpoint.subset:
        told["subset"] = endpoint.subset
        subsets = x.listener.cluster.subsets
        if subsets is not None and subsets.canary is not None and subsets.canary[0] == endpoint.subset:
            told["canary"] = subsets.canary[1]
    if endpoint.hostname:
        told["host"] = endpoint.hostname
    if attempt.kept:
        told["kept"] = True
    if attempt.sent:
        told["connecting_ms"] = milliseconds(attempt.sent - attempt.began)
        told["waiting_ms"] = milliseconds(over - attempt.sent)
    if attempt.failure:
        told["failure"] = attempt.failure
    if attempt.cause:
        told["cause"] = attempt.cause
    if attempt.problem:
        told["problem"] = attempt.problem
    if attempt.status >= 400:
        told["status"] = attempt.status
    if attempt.peer_error:
        told["peer_error"] = attempt.peer_error
    if endpoint.admin:
        told["admin"] = str(Address(endpoint.host, endpoint.admin))
    return told


def _order(event: dict[str, Any]) -> tuple[float, bool]:
    """When it was; what was chosen comes before the try that went there."""
    at: float = event["at_ms"]
    return at, event["what"] != "chosen"
