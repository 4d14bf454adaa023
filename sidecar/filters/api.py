"""What a filter is, and the chain that a listener or a route runs.

A filter applies one mechanism to traffic. It is a plain object with some of these methods, all of them synchronous:

``on_request(exchange)``
    once, before the first try. ``None``: continue. A :class:`~sidecar.proxy.errors.Reply`: answer that. :data:`WAIT`:
    the exchange waits until somebody calls its ``granted()``, then goes on with the next filter.
``on_try(exchange)``
    before each try; ``None`` or a ``Reply``.
``on_answer(exchange, head)`` / ``on_failure(exchange, kind)``
    a try has got an answer's head, or will not get one. ``None``, or a :class:`Retry`: let go of it and try again.
``on_connected(exchange)``
    TCP only: the connection to the endpoint stands.
``on_end(exchange)``
    exactly once for each exchange that ran ``on_request``, whatever happened: give back what was taken.

A chain is built once per configuration and holds only the hooks that its filters really have.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sidecar.config.model import Timeout

if TYPE_CHECKING:
    from sidecar.proxy.errors import Reply
    from sidecar.resilience.limiter import Limiter


class Wait(enum.Enum):
    """The type of :data:`WAIT`."""

    WAIT = "wait"


WAIT: Final = Wait.WAIT

#: A request body up to this size is kept, so that the request can be sent again.
KEEP: Final = 65536
#: No bound.
ANY: Final = 1 << 60


class Retry:
    """Try again in ``delay`` seconds; ``reason`` is the metric's label."""

    __slots__ = ("delay", "reason")

    def __init__(self, delay: float, reason: str) -> None:
        self.delay = delay
        self.reason = reason


# An exchange is either kind (HTTP, TCP); a filter that reads what only one kind has is only put into such chains.
Hook: TypeAlias = "Callable[[Any], Reply | Wait | None]"
TryHook: TypeAlias = "Callable[[Any], Reply | None]"
AnswerHook: TypeAlias = "Callable[[Any, Any], Retry | None]"
FailureHook: TypeAlias = "Callable[[Any, str], Retry | None]"
EndHook: TypeAlias = "Callable[[Any], None]"


class Chain:
    """The hooks of an ordered list of filters, and the times that every phase of an exchange reads: ``timeout``, and
    ``patience``, the seconds that one try may wait for an answer's head. ``keep``: bytes of a request's body that are
    kept, so that it can be sent again. ``queue``: the :class:`sidecar.queue.filter.Queue` where requests may be stored
    instead of being refused; ``delivery``: the chain of stored requests, on a listener that has a place for them.
    ``tunnels``: the places for upgraded connections; ``None``: any number."""

    __slots__ = (
        "delivery", "filters", "keep", "on_answer", "on_connected", "on_end", "on_failure", "on_request", "on_try",
        "patience", "queue", "timeout", "tunnels",
    )  # fmt: skip

    def __init__(self, filters: Sequence[object], timeout: Timeout, patience: float) -> None:
        self.keep = KEEP
        self.queue: Any = None
        self.delivery: Chain | None = None
        self.filters = tuple(filters)
        self.tunnels: Limiter | None = next((f.tunnels for f in filters if hasattr(f, "tunnels")), None)
        self.timeout = timeout
        self.patience = patience
        self.on_request: tuple[Hook, ...] = self._hooks("on_request")
        self.on_try: tuple[TryHook, ...] = self._hooks("on_try")
        self.on_answer: tuple[AnswerHook, ...] = self._hooks("on_answer")
        self.on_failure: tuple[FailureHook, ...] = self._hooks("on_failure")
        self.on_connected: tuple[EndHook, ...] = self._hooks("on_connected")
        self.on_end: tuple[EndHook, ...] = self._hooks("on_end")

    def _hooks(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(f, name) for f in self.filters if hasattr(f, name))
