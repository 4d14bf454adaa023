"""The order of all filters in a chain, and the reason for each place.

A filter that declares its settings needs its line here and its own file: the configuration, its schema and reference,
the metrics, the admin API and ``sidecar status`` have it from there. A filter of another package stands behind the one
that it names. At the end of an exchange the ``on_end`` hooks run in this same order, so slots are given
back first and counted last.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sidecar.config.declared import reserve
from sidecar.config.schema import declare
from sidecar.exchange.filter import Filter


class Place(NamedTuple):
    """A filter's name, why it stands there, and its class, if it declares its settings; in the file of that name or in
    another ``module``."""

    name: str
    reason: str
    filter: str = ""
    module: str = ""


ORDER: Final = (
    Place("tracing", "whatever happens next, refusals too, has a trace id"),
    Place("request_id", "... and a request id"),
    Place("forwarded", "inbound only; changes the head, never refuses, so before those that may"),
    Place("drain", "inbound only; the cheapest refusal first"),
    Place(
        "timeout",
        "the deadline counts from the start, waiting included: before anything can wait; refuses what has no time left",
        "Timeout",
    ),
    Place("queue_door", "answers what is asked about queued requests; such a chain goes no further"),
    Place(
        "queue",
        "stores what all behind it refuse; what paces the traffic is for the deliveries",
        "QueueDeclaration",
        "sidecar.http_queue.settings",
    ),
    Place("host", "changes the head of what is let in", "Host"),
    Place("load_report", "outbound only; likewise, where the balancer goes by what the endpoints' sidecars report"),
    Place("fallback", "answers what all behind it refuse; what it cannot answer, the queue may store", "Fallback"),
    Place(
        "cache",
        "what it answers costs the upstream nothing: before all that is to spare it, and asked after it in an error",
        "Cache",
    ),
    Place("rate_limit", "before the bulkhead: what is refused must not take up a place in its queue", "RateLimit"),
    Place(
        "llm",
        "what is refused takes no place in its queue; before what waits with a slot of it, and what is judged by tries",
        "Llm",
    ),
    Place("wait", "before the bulkhead: what waits for its upstream holds none of its slots", "Waiting"),
    Place("bulkhead", "the last one before the first try: who passes holds a slot until the end", "Bulkhead"),
    Place("faults", "behind the bulkhead: who is delayed holds a slot; before what upstreams are judged by", "Faults"),
    Place(
        "circuit_breaker",
        "before each try; after the bulkhead, or a half-open permit would be spent on waiting",
        "CircuitBreaker",
    ),
    Place(
        "split",
        "before each try, and it refuses nothing: after what may; it chooses among what is there then",
        "SplitTraffic",
    ),
    Place("retry", "after the breaker, so that a failure is counted before it is decided whether to go on", "Retry"),
    Place("stale", "keeps good answers for a fallback"),
    Place("metrics", "by then everything about the exchange is known"),
    Place("connection_metrics", "the same over TCP"),
    Place("why", "likewise; gives TCP connections an id, which the access log has then, too"),
    Place("decisions", "likewise"),
    Place("access_log", "likewise"),
    Place("mirror", "copies what is over", "Mirror"),
    Place("delivered", "says that a stored request's exchange is over: the last word"),
)

#: Where each one stands.
RANK: Final = {place.name: rank for rank, place in enumerate(ORDER)}
#: Those that declare their settings.
DECLARING: Final[tuple[Any, ...]] = tuple(
    getattr(importlib.import_module(place.module or f"sidecar.filters.{place.name}"), place.filter)
    for place in ORDER
    if place.filter
)
#: Filters that remember something of each exchange have the same place for it in all chains: these, then others.
STATEFUL: Final = tuple(it.name for it in DECLARING if it.stateful)


def placed(filters: Iterable[Filter]) -> list[Filter]:
    """The same filters in their order, those of other packages behind the ones that they name; each one that needs a
    place for its state has it."""
    found = sorted(filters, key=_rank)
    others = 0
    for it in found:
        if it.name in STATEFUL:
            it.place = STATEFUL.index(it.name)
        elif it.stateful:
            it.place = len(STATEFUL) + others
            others += 1
    return found


def _rank(it: Filter) -> float:
    rank = RANK.get(it.name)
    return rank if rank is not None else RANK[it.after] + 0.5


reserve(RANK)
for _filter in DECLARING:
    declare(_filter)
