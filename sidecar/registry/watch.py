"""One followed service: the last known set of its instances and those who want to hear of changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sidecar.core.instance import Instance, OnChange

log = logging.getLogger("sidecar.registry")


class _Subscriber:
    __slots__ = ("_heard", "on_change")

    def __init__(self, on_change: OnChange) -> None:
        self.on_change = on_change
        self._heard: tuple[Instance, ...] | None = None

    def tell(self, instances: tuple[Instance, ...]) -> None:
        if instances == self._heard:
            return
        self._heard = instances
        try:
            self.on_change(instances)
        except Exception:
            log.exception("a listener to registry changes failed")


class Watch:
    """The set is compared before anyone is called, so a return of a query that brings nothing new costs nothing."""

    def __init__(self, service: str, tag: str) -> None:
        self.service = service
        self.tag = tag
        #: None until the first answer.
        self.known: tuple[Instance, ...] | None = None
        #: Set with the first answer, or when the watch ends.
        self.answered = asyncio.Event()
        self._subscribers: set[_Subscriber] = set()

    @property
    def wanted(self) -> bool:
        """Whether anyone listens."""
        return bool(self._subscribers)

    def subscribe(self, on_change: OnChange) -> Callable[[], None]:
        """Call ``on_change`` with every new set until the returned function is called. A set that is known
        already is told right after the caller returns."""
        subscriber = _Subscriber(on_change)
        self._subscribers.add(subscriber)

        def catch_up() -> None:
            if self.known is not None and subscriber in self._subscribers:
                subscriber.tell(self.known)

        if self.known is not None:
            asyncio.get_running_loop().call_soon(catch_up)
        return lambda: self._subscribers.discard(subscriber)

    def publish(self, instances: tuple[Instance, ...]) -> None:
        """Make this the known set."""
        self.known = instances
        self.answered.set()
        for subscriber in tuple(self._subscribers):
            if subscriber in self._subscribers:
                subscriber.tell(instances)
