"""Lets a bounded number of connections into the admin API, and keeps room for probes.

Whoever can connect could otherwise hold the port, and the files of the process that carries the traffic, by opening
connections and being silent, or by keeping them. So a connection that nobody needs now makes room for a new one, and
some of the room is for ``/ready``, ``/health`` and ``/metrics`` alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, cast

from sidecar.admin.connection import Connection, Server

#: Connections at once; and how many of them are for probes.
MAX_CONNECTIONS: Final = 128
FOR_PROBES: Final = 16
#: Seconds from a connection's beginning within which its first request has to be complete.
FIRST_REQUEST_SECONDS: Final = 10.0
#: Seconds that a client may take to read an answer before its connection makes room as one that has read it.
READING_SECONDS: Final = 5.0


class Door:
    """A protocol factory in front of ``server``, which is set before the first connection. Tell it of each request by
    :meth:`spoke`, ask :meth:`admits`, and say when there is an answer, by :meth:`answered`."""

    def __init__(self, most: int = MAX_CONNECTIONS, patience: float = FIRST_REQUEST_SECONDS) -> None:
        self.server: Server
        self._most = most
        self._patience = patience
        #: Without a request so far, the oldest first.
        self._silent: dict[Connection, asyncio.TimerHandle] = {}
        #: What has been answered, and when; what is being answered that is no probe.
        self._resting: dict[Connection, float] = {}
        self._busy: set[Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        if self._full():
            self._forget_gone()
            if self._full() and not self._make_room():
                return _Closed()
        handler = self.server()
        self._silent[handler] = asyncio.get_running_loop().call_later(self._patience, self._drop, handler)
        return handler

    def spoke(self, handler: Connection) -> None:
        """A request has come in on this connection; from now on the keep-alive timeout watches over it."""
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()
        self._resting.pop(handler, None)

    def admits(self, handler: Connection, probe: bool) -> bool:
        """Whether what it asks for may be worked on: a probe always, the rest while there is room for it."""
        if not probe:
            if len(self._busy) >= self._most - min(FOR_PROBES, self._most // 2):
                return False
            self._busy.add(handler)
        return True

    def answered(self, handler: Connection) -> None:
        """Its request has an answer, which goes out now."""
        self._busy.discard(handler)
        if handler.transport is not None:
            self._resting[handler] = time.monotonic()
            if len(self._resting) > self._most:
                self._forget_gone()

    def close(self) -> None:
        """Stop every timer."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()

    def _full(self) -> bool:
        return max(len(self._silent), len(self.server.connections)) >= self._most

    def _make_room(self) -> bool:
        """Close the connection that has rested the longest, or else has been silent the longest, or else has an answer
        that it does not read; whether there was one."""
        late = time.monotonic() - READING_SECONDS
        for handler, since in self._resting.items():
            transport = handler.transport
            if transport is not None and (since < late or not transport.get_write_buffer_size()):
                self._drop(handler)
                return True
        for handler in (*self._silent, *self._resting):
            if handler.transport is not None:
                self._drop(handler)
                return True
        return False

    def _drop(self, handler: Connection) -> None:
        self._resting.pop(handler, None)
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()
        if handler.transport is not None:
            handler.transport.abort()

    def _forget_gone(self) -> None:
        for handler in _gone(self._silent):
            self._silent.pop(handler).cancel()
        for handler in _gone(self._resting):
            del self._resting[handler]


def _gone(handlers: Iterable[Connection]) -> list[Connection]:
    return [handler for handler in handlers if handler.transport is None]


class _Closed(asyncio.Protocol):
    """A connection that is too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
