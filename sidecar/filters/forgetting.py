"""What stands in place of a cache where stored requests are delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.cache.invalidation import changes
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request
    from sidecar.filters.cache import Cache


class Forgetting(Filter):
    """They are answered by the upstream itself; what they change is forgotten."""

    name: ClassVar[str] = "cache"

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._cache = cache

    def on_answer(self, x: Request, head: ResponseHead) -> None:
        if changes(x.method, head.status):
            self._cache.forget(x.head, head)
