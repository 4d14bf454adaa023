"""Asks the endpoints of an upstream whether they are well, again and again, and tells the cluster.

One task per cluster, however many endpoints there are: it has a time for each, and lets at most :data:`AT_ONCE` checks
run at once. Times are spread over the interval and jittered, so that neither the endpoints of a sidecar nor the
sidecars of an endpoint are in step.

A check is a request to the endpoint, a connection to it, a question to the sidecar in front of it, which asks its app
and what that depends on (``deep``), or one to a PostgreSQL server, whether it accepts writes (``postgres``).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from sidecar.core.address import Address
from sidecar.core.health import Health, Unsure
from sidecar.core.secret import Secret
from sidecar.endpoints import http_check
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Checked, Endpoint
from sidecar.net.causes import words_for
from sidecar.net.shortage import SHORTAGE, is_local

log = logging.getLogger("sidecar.health")

#: Checks of one cluster that run at once.
AT_ONCE: Final = 32
#: Each interval is shortened or stretched by up to this.
JITTER: Final = 0.1
#: Seconds within which an endpoint that has just come is checked, and at most between two looks at which there are.
SOON: Final = 1.0

Ask = Callable[[Endpoint], Awaitable[Health]]


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks a PostgreSQL server."""

    user: str
    database: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCheck:
    """``http`` is a path to GET, with ``host`` in its Host field (empty: the endpoint's name or address), ``port`` the
    one to ask (0: the endpoint's own). ``deep`` is the service of which an endpoint's sidecar is asked; with
    ``postgres`` an endpoint is well that accepts writes, and unwell until it has said so. Without these, a connection
    is enough. ``fall`` bad results in a row take an endpoint out of the rotation, ``rise`` good ones bring it back.
    Times are seconds."""

    http: str = ""
    host: str = ""
    port: int = 0
    deep: str = ""
    postgres: Login | None = None
    interval: float = 5.0
    timeout: float = 2.0
    fall: int = 3
    rise: int = 2


class ActiveChecks:
    """Those of one cluster. ``ask`` is what asks an endpoint, by default what ``check`` says."""

    def __init__(
        self,
        cluster: Cluster,
        check: EndpointCheck,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.check = check
        #: Told when an endpoint is well again that was taken out.
        self.on_recovery: Callable[[], None] = lambda: None
        #: Told when one is taken out.
        self.on_fall: Callable[[], None] = lambda: None
        self._cluster = cluster
        self._ask = ask or (self._asked if check.postgres is None else self._primary(check.postgres))
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()
        #: When each endpoint is due, with a number so that endpoints are never compared.
        self._due: list[tuple[float, int, Endpoint]] = []
        self._number = 0
        self._seen: tuple[Endpoint, ...] = ()
        self._running: set[asyncio.Task[None]] = set()
        self._under_way: set[Endpoint] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to check."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"checks of {self._cluster.name}")

    def stop(self) -> None:
        """No result is told any more."""
        for task in (self._task, *self._running):
            if task is not None:
                task.cancel()
        self._task = None
        self._due.clear()
        self._seen = ()

    async def _run(self) -> None:
        self._enroll(self.check.interval)
        while True:
            now = self._clock()
            while self._due and self._due[0][0] <= now and len(self._running) < AT_ONCE:
                _, _, endpoint = heapq.heappop(self._due)
                if not endpoint.gone:
                    self._put(endpoint, self.check.interval * self._rng.uniform(1 - JITTER, 1 + JITTER))
                    self._begin(endpoint)
            if len(self._running) >= AT_ONCE:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            else:
                soon = self._due[0][0] - now if self._due else SOON
                await self._sleep(min(max(soon, 0.001), SOON))
            self._enroll(min(SOON, self.check.interval))

    def _enroll(self, within: float) -> None:
        """Give those that have come a time within so many seconds."""
        endpoints = self._cluster.endpoints
        if endpoints is self._seen:
            return
        before = set(self._seen)
        self._seen = endpoints
        for endpoint in endpoints:
            if endpoint not in before:
                # What is not used until it has been asked, is asked at once.
                self._put(endpoint, 0.0 if endpoint.down and endpoint.checked is None else self._rng.random() * within)

    def _put(self, endpoint: Endpoint, delay: float) -> None:
        self._number += 1
        heapq.heappush(self._due, (self._clock() + delay, self._number, endpoint))

    def _begin(self, endpoint: Endpoint) -> None:
        """Begin a check, unless the one before is still under way: it may take longer than the interval."""
        if endpoint in self._under_way:
            return
        self._under_way.add(endpoint)
        task = asyncio.get_running_loop().create_task(self._check(endpoint))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _check(self, endpoint: Endpoint) -> None:
        try:
            health = await self._outcome(endpoint)
        finally:
            self._under_way.discard(endpoint)
        if health is not None and not endpoint.gone:
            self._count(endpoint, health)

    async def _outcome(self, endpoint: Endpoint) -> Health | None:
        """What a check says; None: nothing about the endpoint, be it that this host lacked something for it."""
        what = self._what(endpoint)
        try:
            async with asyncio.timeout(self.check.timeout):
                return await self._ask(endpoint)
        except TimeoutError:
            return Health("unhealthy", f"{what}: no answer within {self.check.timeout:g} s")
        except OSError as error:
            if is_local(error):
                SHORTAGE.met(error)
                return None
            return Health("unhealthy", f"{what}: {words_for(error)}")
        except Unsure as error:
            self._unsure(endpoint, f"{what}: {error}")
            return None
        except (EOFError, ValueError) as error:
            return Health("unhealthy", f"{what}: {error}")
        except Exception as error:
            log.exception("a check of %s failed", endpoint.address)
            return Health("unhealthy", f"{what}: {type(error).__name__}")

    def _unsure(self, endpoint: Endpoint, output: str) -> None:
        """Show that, and leave the endpoint where it is: out, or in with a warning."""
        row = endpoint.checked.row if endpoint.checked is not None else 0
        status = "unhealthy" if endpoint.down else "warning"
        self._cluster.checked(endpoint, Checked(status, output, time.time(), row), endpoint.down)

    def _count(self, endpoint: Endpoint, health: Health) -> None:
        """Tell the cluster, and whether that is enough of the kind in a row."""
        check, before = self.check, endpoint.checked
        good = health.status != "unhealthy"
        same = before is not None and (before.status != "unhealthy") == good
        row = before.row + 1 if before is not None and same else 1
        down = endpoint.down
        if good and (row >= check.rise or before is None or not before.row):  # the first result counts at once
            down = False
        elif not good and (row >= check.fall or self._another(endpoint)):
            down = True
        changed = endpoint.down != down
        self._cluster.checked(endpoint, Checked(health.status, health.output, time.time(), row), down)
        if changed and not down and check.postgres is not None:
            for other in self._cluster.endpoints:
                if other.checked is not None and other.checked.status == "unhealthy" and not other.down:
                    self._cluster.checked(other, other.checked, True)
        if changed:
            (self.on_fall if down else self.on_recovery)()

    def _another(self, endpoint: Endpoint) -> bool:
        """Whether another one is known to be the right one, where there is one alone."""
        others = self._cluster.endpoints if self.check.postgres is not None else ()
        return any(
            not it.down and it.checked is not None and it.checked.status == "healthy"
            for it in others
            if it is not endpoint
        )

    def _what(self, endpoint: Endpoint) -> str:
        check = self.check
        if check.postgres is not None:
            return "PostgreSQL"
        if check.deep and endpoint.admin:
            return f"deep check of {check.deep}"
        return http_check.what(check.http) if check.http else "connect"

    async def _asked(self, endpoint: Endpoint) -> Health:
        """The check itself. Raises OSError, EOFError, ValueError."""
        check, what = self.check, self._what(endpoint)
        if check.deep and endpoint.admin:
            return await self._deep(endpoint, what)
        port = check.port or endpoint.port
        addresses = [(endpoint.host, port)]
        if not check.http:
            await http_check.accepts(addresses)
            unknown = ", where its sidecar can be asked is not known" if check.deep else ""
            return Health("healthy", f"{what}: accepted{unknown}")
        host = check.host or str(Address(endpoint.hostname or endpoint.host, port))
        return http_check.by_word(await http_check.get(addresses, check.http, host), what)

    def _primary(self, login: Login) -> Ask:
        """A check of PostgreSQL."""
        from sidecar.endpoints.postgres_check import Primary  # nobody else loads all of that

        primary = Primary(login.user, login.database, login.password)
        return lambda endpoint: primary.ask([(endpoint.host, self.check.port or endpoint.port)])

    async def _deep(self, endpoint: Endpoint, what: str) -> Health:
        path = f"/health/deep/{quote(self.check.deep, safe='')}"
        address = Address(endpoint.host, endpoint.admin)
        answer = await http_check.get([(address.host, address.port)], path, str(address))
        if answer.status in (401, 403, 404):
            # A sidecar of another service or version: its endpoint may be as well as can be.
            return Health("warning", f"{what}: its sidecar answered {answer.status}")
        found = http_check.by_word(answer, what)
        ill = ", ".join(http_check.ill(answer))
        return Health(found.status, f"{found.output}, of {ill}") if ill else found
