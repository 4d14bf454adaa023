"""The ends of an exchange in a rehearsal or a simulation: nothing is sent, and others say what comes back.

They stand here and not where rehearsals are, because classes that are compiled have no heirs that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.http.ends import ClientEnd, UpstreamEnd
from sidecar.http.pool import Pool
from sidecar.net.sockets import Pausable

if TYPE_CHECKING:
    import asyncio

    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.attempt import Attempt
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.blocks import ResponseBlock
    from sidecar.net.wheel import TimerWheel


class RehearsedClient(ClientEnd):
    """Whoever asked; ``plan`` is what was recorded of the request."""

    __slots__ = ("plan",)

    def __init__(self, ip: str, transport: asyncio.Transport, wheel: TimerWheel, plan: Any) -> None:
        Pausable.__init__(self)
        self.transport = transport
        self.ip = ip
        self.plan = plan
        self.exchange = None
        self.half_closed = False
        self.paused_writing = False
        self.timer = wheel.timer(self._time)

    def _time(self) -> None:
        x = self.exchange
        if x is not None:
            x.check_timer(x.listener.clock())

    def take_buffer(self) -> bytes:
        return b""

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        self.abort()

    def abort(self) -> None:
        self.exchange = None
        self.timer.close()
        self.transport.close()


class RehearsedConnection(UpstreamEnd):
    """A connection that nothing goes over."""

    __slots__ = ()

    def __init__(self, transport: asyncio.Transport) -> None:
        Pausable.__init__(self)
        self.transport = transport
        self.exchange = None
        self.reused = False
        self.buffer = b""

    def close(self) -> None:
        self.exchange = None
        self.transport.close()

    def finish(self) -> None:
        self.close()


class RehearsedPool(Pool):
    """Has no connections; ``asked`` is called for each one that an attempt wants."""

    asked: Callable[[Any, Any], None]

    def take(self, endpoint: Endpoint, idempotent: bool) -> Any:
        return None

    def connect(self, exchange: HttpExchange, attempt: Attempt) -> None:
        self.asked(exchange, attempt)

    def put(self, conn: UpstreamEnd, head: ResponseBlock, now: float) -> None:
        conn.exchange = None


class RecordedBalancer(Balancer):
    """Chooses the endpoint whose address is ``wanted``, as it was chosen then, if that one is to be had."""

    def __init__(self) -> None:
        self.wanted = ""
        self._next = 0

    def pick(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        for it in endpoints:
            if it.address == self.wanted:
                return it
        self._next += 1
        return endpoints[self._next % len(endpoints)]

    def update(self, endpoints: Sequence[Endpoint]) -> None:
        return None
