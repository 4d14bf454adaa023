"""Chooses for servers of language models: an instance that has the model before one that has to load it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sidecar.endpoints.balancers.least_connections import LeastConnections

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint

#: Models of which it is remembered where the last request for one went, and how many of an endpoint's are shown.
MOST: Final = 256
_SHOWN: Final = 16


class LoadedFirst(LeastConnections):
    """The least busy one of those that have the model, as long as one of them has fewer exchanges under way than its
    share of the ``slots``; else of all, so that the model is loaded at another one, too. What was sent somewhere a
    moment ago is being loaded there. ``by_tags``: those that have the model are the ones with a tag of its name; then
    no other one is asked, as long as there is any."""

    __slots__ = ("_all", "_by_tags", "_last", "_slots")

    def __init__(self, rng: Random, slots: int, by_tags: bool) -> None:
        LeastConnections.__init__(self, rng)
        self._slots = slots
        self._by_tags = by_tags
        self._all: Sequence[Endpoint] = ()
        self._last: dict[str, Endpoint] = {}

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        """One of ``endpoints``; ``key`` is the model, or empty."""
        if not key:
            return LeastConnections.pick(self, endpoints, key)
        if self._by_tags:
            able = [e for e in endpoints if key in e.tags] or [e for e in self._all if key in e.tags]
            return LeastConnections.pick(self, able or endpoints, key)
        share = -(-self._slots // len(endpoints))
        free = [e for e in endpoints if e.active < share] or list(endpoints)
        found = [e for e in free if key in e.models]
        last = self._last.pop(key, None)
        if not found and last is not None and last in free:
            found = [last]
        picked = LeastConnections.pick(self, found or free, key)
        self._last[key] = picked
        if len(self._last) > MOST:
            del self._last[next(iter(self._last))]
        return picked

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        self._all = endpoints
        for model in [model for model, endpoint in self._last.items() if endpoint not in endpoints]:
            del self._last[model]

    def known(self, endpoint: Endpoint) -> dict[str, Any]:
        return {} if self._by_tags else {"models": sorted(endpoint.models)[:_SHOWN]}
