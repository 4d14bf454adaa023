"""What ``wait``, ``fallback`` and ``cache`` need of other parts: put in place whenever a listener gets its chains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.exchange.filter import Filter
from sidecar.filters.cache import Cache
from sidecar.filters.forgetting import Forgetting
from sidecar.http import whole
from sidecar.http.detour import detour
from sidecar.http.stale import Keeper

#: They are for clients: what is stored on the disk is to reach the upstream itself, whenever that is.
_OF_CLIENTS: Final = ("wait", "fallback", "faults")


def prepare(every: Sequence[Mapping[str, Any]], listener_of: Callable[[str], Any]) -> None:
    """See to the filters of one listener, those of its chains. ``listener_of`` finds another upstream's listener."""
    covered: dict[Any, bool] = {}
    for made in every:
        cache = made.get("cache")
        if cache is not None:
            cache.can_tell, cache.whole = whole.can_tell, whole.whole
        fallback, breaker = made.get("fallback"), made.get("circuit_breaker")
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
