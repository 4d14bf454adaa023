"""An HTTP/1.1 port: routes, the connection pool, and the accepted connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from sidecar.core.replies import STATUS, Reply, render
from sidecar.exchange.listener import Listener
from sidecar.http.h1.server import Downstream
from sidecar.net.shortage import SHORTAGE

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.message import RequestHead
    from sidecar.exchange.routes import Route, Routes
    from sidecar.http.pool import Pool
    from sidecar.http.refusals import Refusals


class HttpListener(Listener):
    """``routes`` is ``None`` where there are none; ``host`` is for HTTP/1.0 requests that name none. The assembly sets
    them, and the pool."""

    pool: Pool
    routes: Routes | None
    host: bytes
    #: Called with the code, the message, the request id and the client of what never became an exchange.
    on_refusal: Callable[[str, str, str, str], None] | None = None
    #: Where requests are stored: a :class:`sidecar.http_queue.queue.HttpQueue`.
    queue: Any = None
    #: Answers from memory before there is an exchange: a :class:`sidecar.http.quick.Quick`.
    quick: Any = None
    #: Lines about what is refused before it is an exchange.
    refusals: Refusals | None = None

    @property
    def files(self) -> Sequence[Any]:
        return () if self.queue is None else (self.queue.files,)

    async def start(self) -> None:
        if self.queue is not None:
            self.queue.open()
        await super().start()
        SHORTAGE.kept[self.pool.give_up] = None

    def protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, Downstream(self))

    def route(self, head: RequestHead) -> Route:
        """The route of that request."""
        if self.routes is not None:
            route = self.routes.match(head)
            if route is not None:
                return route
        return self.default_route

    def admit(self, connection: Downstream) -> bool:
        """Take in a connection, or tell it that there is no room."""
        if self.enter(connection):
            return True
        if connection.transport.is_closing():
            self.refused("local_shortage", "descriptors run out", client=connection.ip)
            return False
        reply = Reply("overloaded", f"{self.limits.connections} clients are connected, more are not taken", 1.0)
        request_id = self.new_request_id()
        self.refused("overloaded", reply.message, request_id, connection.ip)
        connection.transport.write(render(reply, self.name, request_id, close=True))
        connection.close_gently()
        self.turn_away(connection)
        return False

    def refused(self, code: str, message: str = "", request_id: str = "", client: str = "", data: bytes = b"") -> None:
        """Count a request that never became an exchange, and tell those who remember and log such. ``data`` is what has
        come of it."""
        self.stats.rejected[code] += 1
        self.stats.tally("other", STATUS[code]).n += 1
        if self.on_refusal is not None:
            self.on_refusal(code, message, request_id, client)
        if self.refusals is not None:
            self.refusals.add(code, message, client, request_id, data)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self.pool.forget(endpoint)

    def stop_work(self) -> None:
        if self.queue is not None:
            self.queue.pause()

    def drain(self) -> None:
        self.stop_work()
        super().drain()

    async def drained(self) -> None:
        """Returns when nothing is under way any more, and all answers are out."""
        await super().drained()
        while not all(cast(Downstream, it).flushed for it in self._connections):  # noqa: ASYNC110 - as there
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self.queue is not None:
            self.queue.stop()
        await super().stop()
        if self.refusals is not None:
            self.refusals.close()
        SHORTAGE.kept.pop(self.pool.give_up, None)
        self.pool.close()
        if self.queue is not None:
            await self.queue.close()
