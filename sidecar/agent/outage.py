"""What ``wait``, ``fallback``, ``cache`` and ``mirror`` need of other parts: put in place whenever a listener gets its
chains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from sidecar.agent.context import Context
from sidecar.cache.invalidation import changes
from sidecar.exchange.filter import Filter
from sidecar.filters.cache import Cache
from sidecar.http import answer_body
from sidecar.http.detour import detour
from sidecar.http.listener import HttpListener
from sidecar.http.mirror import copy, is_copy
from sidecar.http.quick import Quick
from sidecar.http.stale import Keeper

#: They are for clients: what is stored on the disk is to reach the upstream itself, whenever that is; and
#: as often as it takes, which is for no copies.
_OF_CLIENTS: Final = ("wait", "fallback", "faults", "mirror")


def prepare(every: Sequence[Mapping[str, Any]], listener_of: Callable[[str], Any]) -> None:
    """See to the filters of one listener, those of its chains. ``listener_of`` finds another upstream's listener."""
    covered: dict[Any, bool] = {}
    for made in every:
        cache = made.get("cache")
        if cache is not None:
            cache.can_tell, cache.whole = answer_body.can_tell, answer_body.whole
        fallback, breaker = made.get("fallback"), made.get("circuit_breaker")
        mirror = made.get("mirror")
        if mirror is not None:
            mirror.copy = functools.partial(copy, listener_of)
            mirror.is_copy = is_copy
        if fallback is not None:
            fallback.detour = functools.partial(detour, listener_of)
            if not fallback.remembers:
                fallback.keeper = None
            elif fallback.keeper is None:
                fallback.keeper = Keeper(fallback.site.clock)
        if breaker is not None:
            has = fallback is not None or made.get("wait") is not None
            covered[breaker.mechanism] = covered.get(breaker.mechanism, True) and has
    for mechanism, has in covered.items():
        mechanism.covered = has


def fitted(filters: Iterable[Filter], delivery: bool) -> Iterator[Filter]:
    """The filters of a chain, with those that they need beside them; ``delivery``: it is for stored requests."""
    for it in filters:
        if delivery and isinstance(it, Cache):
            yield Forgetting(it)
        elif not (delivery and it.name in _OF_CLIENTS):
            yield it
            keeper: Filter | None = getattr(it, "keeper", None)
            if keeper is not None:
                yield keeper


def quick(listener: HttpListener, every: Sequence[Mapping[str, Any]], context: Context) -> Quick | None:
    """What answers from the listener's caches without an exchange; ``None``: there are none."""
    log, sampling, recorded = context.access_log, context.sampling, context.record_span is not None

    def watched() -> bool:
        return (recorded and sampling.share > 0) or log.tap is not None or log.choosy or log.enabled_for(200, None)

    return Quick(listener, watched, listener.new_request_id) if any(made.get("cache") for made in every) else None


class Forgetting(Filter):
    """In place of a cache where stored requests are delivered: they are answered by the upstream itself, and what they
    change is forgotten."""

    name: ClassVar[str] = "cache"

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._cache = cache

    def on_answer(self, x: Any, head: Any) -> None:
        if changes(x.method, head.status):
            self._cache.forget(x.head, head)
