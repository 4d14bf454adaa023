"""Kept connections to an upstream's endpoints.

They are reused last in, first out, so that those which are not needed grow old and are closed before the upstream
would close them: after ``timeout.keepalive``, or the time that the upstream's ``Keep-Alive`` names, less a second.
State is never changed across an ``await``: a connect that finishes is handed to its exchange or kept in one step.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.exchange.tries import refuse_connection
from sidecar.http.ends import UpstreamEnd, UpstreamPool
from sidecar.http.h1.client import Upstream
from sidecar.net.sockets import reset

if TYPE_CHECKING:
    from sidecar.core.limits import Limits
    from sidecar.core.stats import ListenerStats
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.blocks import ResponseBlock
    from sidecar.net.wheel import TimerWheel

#: A request that cannot be sent again only goes on a connection that was used this recently, or on a fresh one.
FRESH_SECONDS: Final = 1.0
_TIMEOUT: Final = re.compile(rb"timeout=([0-9]{1,6})")


class Pool(UpstreamPool):
    """All connections of one listener to its upstream. ``max_connections`` bounds those in use and kept together
    (0: no bound; tunnels are not among them), ``keepalive`` is how many seconds an unused one is kept, ``limits`` are
    those of answers' heads."""

    max_connections: int
    keepalive: float
    limits: Limits

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
        clock: Callable[[], float],
        stats: ListenerStats,
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.clock = clock
        self.stats = stats
        self.total = 0
        self._idle: dict[Endpoint, list[Upstream]] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    def take(self, endpoint: Endpoint, idempotent: bool) -> Upstream | None:
        idle = self._idle.get(endpoint)
        while idle:
            conn = idle.pop()
            self.stats.upstream_idle -= 1
            if conn.transport.is_closing():
                self.stats.upstream_active += 1  # until lost() counts it out
                continue
            if not idempotent and self.clock() - conn.idle_since > FRESH_SECONDS:
                idle.append(conn)
                self.stats.upstream_idle += 1
                return None
            self.stats.upstream_active += 1
            return conn
        return None

    def put(self, conn: UpstreamEnd, head: ResponseBlock, now: float) -> None:
        assert isinstance(conn, Upstream)
        conn.exchange = None  # should it be closing already: take() asks, and lost() finds it among the others
        keepalive = self.keepalive
        told = head.fields.get(b"keep-alive")
        if told is not None:
            found = _TIMEOUT.search(told)
            if found:
                keepalive = min(keepalive, int(found[1]) - 1.0)
        if keepalive <= 0 or conn.endpoint.gone:
            conn.close()
            return
        if conn.reading_paused:
            conn.resume_reading()
        conn.reused = True
        conn.idle_since = now
        conn.timer.set(now + keepalive)
        stats = self.stats
        stats.upstream_active -= 1
        stats.upstream_idle += 1
        idle = self._idle.get(conn.endpoint)
        if idle is None:
            self._idle[conn.endpoint] = [conn]
        else:
            idle.append(conn)

    def connect(self, exchange: HttpExchange, attempt: Attempt) -> None:
        if self.max_connections and self.total >= self.max_connections and not self.give_up():
            refuse_connection(exchange, attempt)
            return
        self.total += 1
        conn = Upstream(self, exchange, attempt)
        task = self.loop.create_task(self._connect(conn, exchange))
        conn.task = attempt.connecting = task
        self._connecting.add(task)

        def done(task: asyncio.Task[None]) -> None:
            # Here and not in the task, which may be cancelled before it has run at all.
            self._connecting.discard(task)
            if not conn.made:
                conn.exchange = None  # should it stand after all, nobody wants it
                self.total -= 1  # else lost() will

        task.add_done_callback(done)

    async def _connect(self, conn: Upstream, exchange: HttpExchange) -> None:
        try:
            await exchange.cluster.dial(self.loop, conn, conn.endpoint, exchange.chain.timeout.connect, conn.chosen)
        except Exception as error:  # a host name that cannot even be encoded is a ValueError
            if not conn.made and conn.attempt.connecting is conn.task:
                exchange.connect_failed(conn.attempt, error)

    def upgraded(self, conn: UpstreamEnd) -> None:
        assert isinstance(conn, Upstream)
        conn.tunnel = True
        self.total -= 1

    def lost(self, conn: Upstream) -> None:
        """A connection is closed, wherever it was."""
        if not conn.tunnel:
            self.total -= 1
        idle = self._idle.get(conn.endpoint)
        if idle and conn in idle:
            idle.remove(conn)
            self.stats.upstream_idle -= 1
        else:
            self.stats.upstream_active -= 1
        if idle is not None and not idle:
            del self._idle[conn.endpoint]  # endpoints come and go

    def forget(self, endpoint: Endpoint) -> None:
        """An endpoint is no longer in the set: close what is kept to it; what is in use may finish."""
        for conn in tuple(self._idle.get(endpoint, ())):
            conn.close()

    def close(self) -> None:
        """Close every kept connection and stop connecting."""
        for endpoint in list(self._idle):
            self.forget(endpoint)
        for task in self._connecting:
            task.cancel()

    def give_up(self) -> bool:
        """Close the connection that has been unused for the longest; whether there was one."""
        kept = [idle for idle in self._idle.values() if idle]
        if not kept:
            return False
        oldest = min(kept, key=lambda idle: idle[0].idle_since).pop(0)
        self.stats.upstream_idle -= 1
        self.stats.upstream_active += 1  # until lost() counts it out
        reset(oldest.transport)  # nothing is on its way; so its port is free at once
        oldest.close()
        return True
