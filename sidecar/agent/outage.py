"""What ``wait``, ``fallback``, ``cache`` and ``mirror`` need of other parts: put in place whenever a listener gets its
chains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from sidecar.agent.context import Context
from sidecar.cache.invalidation import Caches, changes
from sidecar.config.keys import INHERIT
from sidecar.config.traffic import Route as RouteSettings
from sidecar.core.ids import Ids
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


def prepare(every: Sequence[dict[str, Any]], listener_of: Callable[[str], Any], caches: Caches) -> None:
    """See to the filters of one listener, those of its chains. ``listener_of`` finds another upstream's listener;
    ``caches`` is the listener's own, whatever is read: what came before a reload forgets in those that there are."""
    covered: dict[Any, bool] = {}
    caches.all = tuple(dict.fromkeys([it for made in every if (it := made.get("cache")) is not None]))
    for it in caches.all:
        it.can_tell, it.whole, it.caches = answer_body.can_tell, answer_body.whole, caches
    for made in every:
        cache = made.get("cache")
        fallback, breaker = made.get("fallback"), made.get("circuit_breaker")
        mirror = made.get("mirror")
        if caches.all and cache is None:
            made["forgetting"] = Forgetting(caches)
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


def apart(settings: RouteSettings) -> tuple[str, ...]:
    """What a route must have for itself, though it does not mention it: what keeps answers by what was asked for, where
    the same may be asked for by way of another route and mean something else there."""
    match = settings.match
    split = settings.policies.get("split", INHERIT) is not INHERIT
    return ("cache", "fallback") if match.headers or (match.methods and split) else ()


def fitted(filters: Iterable[Filter], delivery: bool) -> Iterator[Filter]:
    """The filters of a chain, with those that they need beside them; ``delivery``: it is for stored requests."""
    for it in filters:
        if delivery and isinstance(it, Cache):
            yield Forgetting(it.caches, it.by_body)
        elif not (delivery and it.name in _OF_CLIENTS):
            yield it
            keeper: Filter | None = getattr(it, "keeper", None)
            if keeper is not None:
                yield keeper


def quick(listener: HttpListener, every: Sequence[Mapping[str, Any]], context: Context) -> Quick | None:
    """What answers from the listener's caches without an exchange; ``None``: there are none."""
    if not any(made.get("cache") for made in every):
        return None
    recorded = context.record_span is not None
    return Quick(listener, context.access_log, context.sampling, recorded, Ids(context.rng))


class Forgetting(Filter):
    """Where there is no cache, but other routes have some: what is changed is forgotten there. It stands in place of
    one where stored requests are delivered, too: those are answered by the upstream itself. ``asking``: methods that
    only ask, by their bodies."""

    name: ClassVar[str] = "forgetting"
    after: ClassVar[str] = "cache"

    def __init__(self, caches: Caches, asking: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._caches = caches
        self._asking = asking

    def on_answer(self, x: Any, head: Any) -> None:
        if changes(x.method, head.status):
            host, target = x.head.get(b"host") or b"", x.head.target
            self._caches.forget(host, target, head.as_http1(), x.method not in self._asking)
