"""Lets a bounded number of connections into the admin API, and keeps out those that say nothing.

Whoever can connect could otherwise hold the port, and the files of the process that carries the traffic, by opening
connections and being silent.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

#: Connections at once.
MAX_CONNECTIONS: Final = 128
#: Seconds from a connection's beginning within which its first request has to be complete.
FIRST_REQUEST_SECONDS: Final = 10.0


class Door:
    """A protocol factory in front of ``server``, which is set before the first connection. Tell it of each request by
    :meth:`spoke`."""

    def __init__(self, most: int = MAX_CONNECTIONS, patience: float = FIRST_REQUEST_SECONDS) -> None:
        self.server: web.Server
        self._most = most
        self._patience = patience
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        if len(self._silent) >= self._most:
            self._forget_gone()
        if max(len(self._silent), len(self.server.connections)) >= self._most:
            return _Closed()
        handler = self.server()
        self._silent[handler] = asyncio.get_running_loop().call_later(self._patience, self._cut, handler)
        return handler

    def spoke(self, handler: web.RequestHandler) -> None:
        """A request has come in on this connection; from now on the keep-alive timeout watches over it."""
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Stop every timer."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()

    def _cut(self, handler: web.RequestHandler) -> None:
        del self._silent[handler]
        if handler.transport is not None:
            handler.transport.abort()

    def _forget_gone(self) -> None:
        for handler in [handler for handler in self._silent if handler.transport is None]:
            self._silent.pop(handler).cancel()


class _Closed(asyncio.Protocol):
    """A connection that is too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
