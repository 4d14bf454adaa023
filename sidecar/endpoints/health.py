"""Finds out whether the sidecar's own app is well."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidecar.core.address import Address
from sidecar.core.health import Health
from sidecar.endpoints import http_check
from sidecar.net.shortage import SHORTAGE, is_local

log = logging.getLogger("sidecar.health")

#: Seconds until the second check while the app starts; doubled each time up to the interval.
FIRST_DELAY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCheck:
    """``http`` is the path to GET (None: a TCP connection is enough), with ``host`` in its Host field (empty: where the
    app listens). Times are seconds."""

    http: str | None = None
    host: str = ""
    interval: float = 10.0
    timeout: float = 5.0


class AppChecker:
    """Checks ``app`` every ``check.interval`` seconds, more often until it is well for the first time.

    ``on_result`` is called with every result. HTTP: 2xx is healthy, 429 a warning, everything else (redirects too)
    unhealthy, as Consul judges its own checks. Otherwise: healthy when the port accepts a connection. What does not
    answer within ``check.timeout`` is unhealthy. ``addresses`` gives those that ``app`` has at present, or
    raises OSError; without it, ``app`` is one itself.
    """

    def __init__(
        self,
        app: Address,
        check: AppCheck,
        on_result: Callable[[Health], None],
        addresses: Callable[[], Sequence[Address]] | None = None,
    ) -> None:
        self._app = app
        self._addresses = addresses or (lambda: (app,))
        self._check = check
        self._on_result = on_result
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Health] | None = None
        #: The last result.
        self.health = Health("unhealthy", "not checked yet")

    def start(self) -> None:
        """Begin to check, the first time at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="app check")

    async def close(self) -> None:
        """Stop; no result is reported any more."""
        tasks = [task for task in (self._task, self._running) if task is not None]
        self._task = self._running = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def check_now(self) -> Health:
        """Check once and return the result; never raises. Callers at the same time share one check, so the app
        is not asked more often because somebody asks the sidecar more often."""
        if self._running is None:
            self._running = asyncio.create_task(self._check_once(), name="app check now")
            self._running.add_done_callback(self._ended)
        # Shielded: a caller that goes away must not take the others' result along.
        return await asyncio.shield(self._running)

    def _ended(self, task: asyncio.Task[Health]) -> None:
        if self._running is task:
            self._running = None

    async def _run(self) -> None:
        delay = FIRST_DELAY
        well = False
        while True:
            health = await self.check_now()
            well = well or health.status != "unhealthy"
            if well:
                delay = self._check.interval * random.uniform(0.95, 1.0)
            await asyncio.sleep(min(delay, self._check.interval))
            delay *= 2

    async def _check_once(self) -> Health:
        what = f"connect to {self._app}"
        if self._check.http is not None:
            what = http_check.what(self._check.http)
        try:
            async with asyncio.timeout(self._check.timeout):
                health = await self._ask(what)
        except TimeoutError:
            health = Health("unhealthy", f"{what}: no answer within {self._check.timeout:g} s")
        except OSError as error:
            if is_local(error):
                SHORTAGE.met(error)
                return self.health  # that says nothing about the app
            health = Health("unhealthy", f"{what}: {error.strerror or error or type(error).__name__}")
        except (EOFError, ValueError) as error:
            health = Health("unhealthy", f"{what}: {error}")
        except Exception as error:
            log.exception("the check of the app failed")
            health = Health("unhealthy", f"{what}: {type(error).__name__}")
        self.health = health
        try:
            self._on_result(health)
        except Exception:
            log.exception("a listener to the app's health failed")
        return health

    async def _ask(self, what: str) -> Health:
        addresses = [(address.host, address.port) for address in self._addresses()]
        path = self._check.http
        if path is None:
            await http_check.accepts(addresses)
            return Health("healthy", f"{what}: accepted")
        answer = await http_check.get(addresses, path, self._check.host or str(self._app))
        return http_check.by_status(answer.status, what)
