"""Lets a bounded number of connections into the admin API, and keeps room for probes.

Whoever can connect could otherwise hold the port, and the files of the process that carries the traffic, by opening
connections and being silent, or by keeping them. So a connection that nobody needs now makes room for a new one, and
some of the room is for ``/ready``, ``/health`` and ``/metrics`` alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from sidecar.admin.connection import Connection, Serve

#: Connections at once; and how many of them are for probes.
MAX_CONNECTIONS: Final = 128
FOR_PROBES: Final = 16
#: Seconds from a connection's beginning within which its first request has to be complete.
FIRST_REQUEST_SECONDS: Final = 10.0
#: What answers when the server closes has so long to do it, seconds.
CLOSING_SECONDS: Final = 1.0
#: Seconds that a client may take to read an answer before its connection makes room as one that has read it.
READING_SECONDS: Final = 5.0


class Door:
    """A protocol factory in front of ``serve``, which is set before the first connection. Tell it of each request by
    :meth:`spoke`, and ask :meth:`admits`; connections say themselves when they have answered."""

    def __init__(self, most: int = MAX_CONNECTIONS, patience: float = FIRST_REQUEST_SECONDS) -> None:
        self.serve: Serve
        self._open: set[Connection] = set()
        self._most = most
        self._patience = patience
        #: Without a request so far, the oldest first.
        self._silent: dict[Connection, asyncio.TimerHandle] = {}
        #: What has been answered, and when; what is being answered that is no probe.
        self._resting: dict[Connection, float] = {}
        self._busy: set[Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        if self._full() and not self._make_room():
            return _Closed()
        connection = Connection(self.serve, self.answered, self._gone)
        self._open.add(connection)
        self._silent[connection] = asyncio.get_running_loop().call_later(self._patience, self._drop, connection)
        return connection

    def spoke(self, connection: Connection) -> None:
        """A request has come in on this connection; from now on the keep-alive timeout watches over it."""
        timer = self._silent.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self._resting.pop(connection, None)

    def admits(self, connection: Connection, probe: bool) -> bool:
        """Whether what it asks for may be worked on: a probe always, the rest while there is room for it."""
        if not probe:
            if len(self._busy) >= self._most - min(FOR_PROBES, self._most // 2):
                return False
            self._busy.add(connection)
        return True

    def answered(self, connection: Connection) -> None:
        """Its request has an answer, which goes out now."""
        self._busy.discard(connection)
        if connection.transport is not None:
            self._resting[connection] = time.monotonic()

    async def close(self) -> None:
        """End all connections; requests that are under way have a moment."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()
        running = [it.task for it in self._open if it.task is not None]
        for connection in tuple(self._open):
            connection.close()
        if running:
            _, late = await asyncio.wait(running, timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CLOSING_SECONDS)
        for connection in tuple(self._open):
            connection.abort()

    def _full(self) -> bool:
        return len(self._open) >= self._most

    def _make_room(self) -> bool:
        """Close the connection that has rested the longest, or else has been silent the longest, or else has an answer
        that it does not read; whether there was one."""
        late = time.monotonic() - READING_SECONDS
        for connection, since in self._resting.items():
            transport = connection.transport
            if transport is not None and (since < late or not transport.get_write_buffer_size()):
                self._drop(connection)
                return True
        for connection in (*self._silent, *self._resting):
            if connection.transport is not None:
                self._drop(connection)
                return True
        return False

    def _drop(self, connection: Connection) -> None:
        self._gone(connection)
        connection.abort()

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._resting.pop(connection, None)
        timer = self._silent.pop(connection, None)
        if timer is not None:
            timer.cancel()


class _Closed(asyncio.Protocol):
    """A connection that is too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
