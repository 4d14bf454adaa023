"""Asks the sidecars how they are, through their admin APIs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sidecar.demo.mesh import START, Mesh, Workload

#: Seconds between two looks at the upstreams of web's sidecar.
POLL = 0.04


@dataclass(slots=True)
class Seen:
    """One upstream of web's sidecar, as its admin API showed it last."""

    in_rotation: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    breaker: str = "closed"
    retry_after: float = 0.0
    open_seconds: float = 0.0
    retries: dict[str, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    def update(self, upstream: dict[str, Any]) -> None:
        """Take over an answer of ``/upstreams``."""
        endpoints = upstream["endpoints"]
        self.known = frozenset(endpoint["id"] for endpoint in endpoints)
        self.in_rotation = frozenset(endpoint["id"] for endpoint in endpoints if not endpoint["ejected"])
        breaker = upstream["breaker"]
        self.breaker = breaker["state"]
        self.retry_after = breaker["retry_after"]
        self.open_seconds = breaker["open_seconds"]
        stats = upstream["stats"]
        self.retries = stats["retries"]
        self.p50_ms = stats["p50_ms"]
        self.p99_ms = stats["p99_ms"]


class Observer:
    """Watches web's sidecar: :attr:`tasks` and :attr:`model` are its two upstreams."""

    def __init__(self, session: aiohttp.ClientSession, mesh: Mesh) -> None:
        self._session = session
        self._mesh = mesh
        self.tasks = Seen()
        self.model = Seen()
        #: Workloads that are well, of all that there are, while :meth:`wait_ready` waits.
        self.ready = 0
        self.all = len(mesh.workloads)

    async def run(self) -> None:
        """Keep looking until cancelled; an answer that fails leaves what was seen before."""
        while True:
            await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Look once."""
        try:
            async with self._session.get(f"{self._mesh.web.admin}/upstreams") as answer:
                content = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return
        for upstream in content["upstreams"]:
            (self.tasks if upstream["name"] == "tasks" else self.model).update(upstream)

    async def wait_ready(self) -> None:
        """Wait until every sidecar is ready, every app is well, and web's sidecar knows all instances. Raises
        :class:`~sidecar.demo.mesh.MeshError` or :class:`TimeoutError`."""
        async with asyncio.timeout(START):
            for workload in self._mesh.workloads:
                while not await self._well(workload):
                    self._mesh.check_alive()
                    await asyncio.sleep(0.05)
                self.ready += 1
            while self.tasks.known != self._mesh.tasks.keys() or not self.model.known:
                self._mesh.check_alive()
                await self.look()
                await asyncio.sleep(0.05)

    async def _well(self, workload: Workload) -> bool:
        try:
            async with self._session.get(f"{workload.admin}/ready") as ready:
                if ready.status != 200:
                    return False
            async with self._session.get(f"{workload.admin}/health/{workload.kind}") as health:
                return bool((await health.json())["status"] == "healthy")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def memory(self) -> dict[str, int]:
        """Return the resident bytes of each sidecar that answers, from its own metrics."""
        found: dict[str, int] = {}
        for workload in self._mesh.workloads:
            try:
                async with self._session.get(f"{workload.admin}/metrics") as answer:
                    page = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
            for line in page.splitlines():
                if line.startswith("process_resident_memory_bytes "):
                    found[workload.name] = int(float(line.split()[1]))
        return found
