"""Those who ask, and when."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.simulate.measure import Measured
from sidecar.simulate.port import Port
from sidecar.simulate.world import World

_GET = b"GET / HTTP/1.1\r\nhost: there\r\n\r\n"


class Clients:
    """Independent clients: requests come at random (a Poisson process) at ``rate(second)`` per second, whatever becomes
    of those before. Each is measured."""

    def __init__(
        self,
        world: World,
        port: Port,
        rate: float | Callable[[float], float],
        until: float,
        *,
        request: Callable[[], bytes] | bytes = _GET,
        name: str = "clients",
    ) -> None:
        self.world = world
        self.port = port
        self.measured = Measured()
        self._rate = rate
        self._until = until
        self._request = request
        self._random = world.random(name)
        self._next()

    def _next(self) -> None:
        now = self.world.now
        rate = self._rate(now) if callable(self._rate) else self._rate
        # Where there are none now, look again a little later.
        wait = self._random.expovariate(rate) if rate > 0 else 0.05
        if now + wait < self._until:
            self.world.loop.call_later(wait, self._ask if rate > 0 else self._next)

    def _ask(self) -> None:
        self._next()
        request = self._request if isinstance(self._request, bytes) else self._request()
        began = self.world.now
        measured = self.measured
        measured.asked += 1
        self.port.ask(request, lambda answer: measured.add(began, self.world.now - began, answer))
