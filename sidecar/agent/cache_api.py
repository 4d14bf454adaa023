"""``GET /cache`` and ``DELETE /cache``: what the caches of all ports hold, and how they are emptied."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sidecar.core.json_schema import COUNT, COUNTS, TEXT, array, record, ref
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, NotKnown, Operation, Query
from sidecar.exchange.listener import Listener
from sidecar.filters.cache import Cache

logger = logging.getLogger("sidecar.agent")

_SUMS = ("entries", "bytes", "max_bytes", "dropped", "under_way")
_SCHEMAS = {
    "Cache": record(
        upstream=TEXT, direction=TEXT, entries=COUNT, bytes=COUNT, max_bytes=COUNT, dropped=COUNT, under_way=COUNT,
        outcomes=COUNTS,
    ),
    "Caches": record(caches=array(ref("Cache"))),
    "Emptied": record(emptied=array(TEXT), forgotten=COUNT),
}  # fmt: skip


class Caches:
    """The handlers. ``listeners`` gives those of all ports."""

    def __init__(self, listeners: Callable[[], Sequence[Listener]]) -> None:
        self._listeners = listeners

    def contribution(self) -> Contribution:
        """Return the operations."""
        one = (Query("upstream", "only of this one; the service's own name: inbound"),)
        unknown = {404: "it has no cache"}
        return Contribution(
            (
                Operation("GET", "/cache", "What the caches of all ports hold, and what they have done", self.show,
                          {200: "a list", **unknown}, "Caches", query=one),
                Operation("DELETE", "/cache", "Forget the answers that are kept", self.empty,
                          {200: "forgotten", **unknown, **REFUSED}, "Emptied", query=one),
            ),
            _SCHEMAS,
        )  # fmt: skip

    async def show(self, call: Call) -> Answer:
        """Answer ``GET /cache``."""
        return Answer({"caches": [_shown(listener, caches) for listener, caches in self._asked(call)]})

    async def empty(self, call: Call) -> Answer:
        """Answer ``DELETE /cache``."""
        emptied, forgotten = [], 0
        for listener, caches in self._asked(call):
            emptied.append(listener.name)
            forgotten += sum([it.store.clear() for it in caches])
        logger.info("caches emptied", extra={"upstreams": emptied, "forgotten": forgotten, "client": call.client or ""})
        return Answer({"emptied": emptied, "forgotten": forgotten})

    def _asked(self, call: Call) -> Sequence[tuple[Listener, Sequence[Cache]]]:
        wanted = dict(call.query).get("upstream", "")
        found = [(listener, caches) for listener, caches in self._all() if wanted in ("", listener.name)]
        if wanted and not found:
            there = ", ".join(listener.name for listener, _ in self._all()) or "none"
            raise NotKnown(f"{wanted[:80]!r} has no cache; these have one: {there}")
        return found

    def _all(self) -> Iterator[tuple[Listener, Sequence[Cache]]]:
        for listener in self._listeners():
            assembly = getattr(listener, "assembly", None)
            caches = [it for it in assembly.filters if isinstance(it, Cache)] if assembly is not None else []
            if caches:
                yield listener, caches


def _shown(listener: Listener, caches: Sequence[Cache]) -> dict[str, Any]:
    views = [it.view() for it in caches]
    return {
        "upstream": listener.name,
        "direction": listener.stats.direction,
        **{name: sum([view[name] for view in views]) for name in _SUMS},
        "outcomes": dict(listener.stats.cache),
    }
