"""Asks the endpoints of an upstream which models they have loaded: Ollama's ``GET /api/ps``, again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.core.address import Address
from sidecar.endpoints import http_check
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint

log: Final = logging.getLogger("sidecar.upstreams")

#: Seconds between two rounds, and for one answer; endpoints of a cluster that are asked at once.
INTERVAL: Final = 5.0
TIMEOUT: Final = 2.0
AT_ONCE: Final = 8
#: Rounds without an answer after which nothing is known any more: a server that is busy may not answer each time.
FORGET: Final = 6
#: Models of one endpoint, and the longest name.
MOST: Final = 256
LONGEST: Final = 128
#: What stands behind the name of a model that is asked for without a tag.
_USUAL: Final = ":latest"


class LoadedModels:
    """Those of one cluster. ``ask`` is what asks an endpoint; it raises OSError, EOFError or ValueError."""

    def __init__(
        self,
        cluster: Cluster,
        ask: Callable[[Endpoint], Awaitable[dict[str, Any]]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._ask = ask or _asked
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        #: Rounds in a row in which an endpoint has not answered.
        self._silent: dict[Endpoint, int] = {}

    def start(self) -> None:
        """Begin to ask."""
        name = f"loaded models of {self._cluster.name}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    def stop(self) -> None:
        """Ask no more, and forget what was known."""
        if self._task is not None:
            self._task.cancel()
        for endpoint in self._cluster.endpoints:
            endpoint.models = frozenset()

    async def _run(self) -> None:
        while True:
            await self.look()
            await self._sleep(INTERVAL)

    async def look(self) -> None:
        """Ask each endpoint once."""
        room = asyncio.Semaphore(AT_ONCE)
        endpoints = self._cluster.endpoints
        self._silent = {it: n for it, n in self._silent.items() if it in endpoints}

        async def one(endpoint: Endpoint) -> None:
            async with room:
                await self._look_at(endpoint)

        await asyncio.gather(*(one(endpoint) for endpoint in endpoints))

    async def _look_at(self, endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                said = await self._ask(endpoint)
        except (OSError, EOFError, ValueError):
            said = {}
        except Exception:
            log.exception("%s could not be asked for its models", endpoint.address)
            said = {}
        found = models_of(said)
        if found is not None:
            self._silent.pop(endpoint, None)
            endpoint.models = found
            return
        self._silent[endpoint] = rounds = self._silent.get(endpoint, 0) + 1
        if rounds >= FORGET:
            endpoint.models = frozenset()


def models_of(said: dict[str, Any]) -> frozenset[str] | None:
    """Return the names of an answer to ``GET /api/ps``, as requests may have them; ``None``: it is no such answer."""
    models = said.get("models")
    if not isinstance(models, list):
        return None
    names: set[str] = set()
    for it in models[:MOST]:
        name = (it.get("model") or it.get("name")) if isinstance(it, dict) else None
        if isinstance(name, str) and 0 < len(name) <= LONGEST:
            names.update((name, name.removesuffix(_USUAL)))
    return frozenset(names)


async def _asked(endpoint: Endpoint) -> dict[str, Any]:
    host = str(Address(endpoint.hostname or endpoint.host, endpoint.port))
    return http_check.said(await http_check.get([(endpoint.host, endpoint.port)], "/api/ps", host))
