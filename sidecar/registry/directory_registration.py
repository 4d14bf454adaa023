"""Keeps one workload registered in a folder: its file is rewritten as a heartbeat."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.registry.directory_folder import HEARTBEAT, Folder
from sidecar.registry.directory_record import encode
from sidecar.registry.link import Link, describe
from sidecar.registry.pace import Pace
from sidecar.registry.settings import Workload

log = logging.getLogger("sidecar.registry")

#: Seconds that the deregistration may take.
LEAVE = 2.0


class DirectoryRegistration:
    """See :class:`sidecar.registry.api.Registration`. ``in_thread`` makes a call where the disk may be slow, one after
    the other."""

    def __init__(
        self,
        workload: Workload,
        folder: Folder,
        in_thread: Callable[..., Awaitable[Any]],
        link: Link,
        clock: Callable[[], float],
    ) -> None:
        self._workload = workload
        self._folder = folder
        self._in_thread = in_thread
        self._link = link
        self.source = f"registration of {workload.id}"
        self._wake = asyncio.Event()
        self._pace = Pace(2.0, 4, clock)
        self._status = "critical"
        self._output = "not checked yet"
        self._task = asyncio.create_task(self._run(), name=self.source)

    def set_health(self, status: str, output: str) -> None:
        """The workload's health: ``passing``, ``warning`` or ``critical``, and why."""
        self._output = output
        if status != self._status:
            self._status = status
            self._wake.set()

    def change(self, workload: Workload) -> None:
        """Register it so from now on; name, id, address and port stay."""
        self._workload = workload
        self._wake.set()

    async def leave(self) -> None:
        """Take the workload out; at most :data:`LEAVE` seconds, never raises."""
        await self.stop()
        workload = self._workload
        try:
            async with asyncio.timeout(LEAVE):
                # The thread takes one job after the other, so a write under way comes first.
                await self._in_thread(self._folder.remove, workload.name, workload.id)
        except Exception as error:
            log.warning("could not deregister %s: %s; its file turns stale by itself", workload.id, describe(error))

    async def stop(self) -> None:
        """End it; the file stays until it is stale."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._link.gone(self.source)

    async def _run(self) -> None:
        while True:
            await self._pace.turn()
            self._wake.clear()
            workload = self._workload
            try:
                content = encode(workload, self._status, self._output)
                await self._in_thread(self._folder.write, workload.name, workload.id, content)
                self._link.ok(self.source)
            except Exception as error:
                self._link.failed(self.source, error)
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._wake.wait()
            except TimeoutError:
                pass
