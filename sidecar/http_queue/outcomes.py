"""Outcomes on their way to clients: a few are read at a time, and those that clients do not take are bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.exchange.request import Request
    from sidecar.http_queue.database import Database
    from sidecar.http_queue.record import Found
    from sidecar.http_queue.store import Store
    from sidecar.storage.errors import SpoolError

#: Outcomes that are read from the disk at once, each with a body of up to ``max_body``.
READING: Final = 8
#: What may be written to clients that have not taken it yet, bytes, and how many such clients are borne.
UNREAD: Final = 32 << 20
CLIENTS: Final = 256


class Outcomes:
    """Those of one queue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading = 0
        self._waiting: deque[tuple[Request, str, Callable[[Any, SpoolError | None], None]]] = deque()
        self._taking: list[asyncio.Transport] = []

    def ask(self, x: Request, id: str, done: Callable[[Found | None, SpoolError | None], None]) -> None:
        """Have one read, with its body, when it is its turn. ``done`` answers the exchange with it."""
        self._waiting.append((x, id, done))
        self._next()

    @property
    def crowded(self) -> bool:
        """Whether clients do not take what they have asked for."""
        self._taking = [it for it in self._taking if it.get_write_buffer_size()]
        return len(self._taking) >= CLIENTS or sum(it.get_write_buffer_size() for it in self._taking) >= UNREAD

    def _next(self) -> None:
        waiting = self._waiting
        while waiting and self._reading < READING:
            x, id, done = waiting.popleft()
            if x.phase != ENDED:
                self._reading += 1
                self._read(x, id, done)

    def _read(self, x: Request, id: str, done: Callable[[Any, SpoolError | None], None]) -> None:
        transport = x.client_transport

        def work(database: Database) -> Any:
            return database.find(id, True)

        def found(it: Any, error: SpoolError | None) -> None:
            self._reading -= 1
            try:
                done(it, error)
            finally:
                if transport.get_write_buffer_size():
                    self._taking.append(transport)
                self._next()

        self._store.submit(work, found)
