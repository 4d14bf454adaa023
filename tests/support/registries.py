"""What tests of registries share: configurations, a listener that remembers, waiting for a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sidecar import registry as registries
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.secret import Secret
from sidecar.registry import Found, Registry, Settings, Workload
from support.patience import PATIENCE


def consul_settings(port: int, *, token: str = "", datacenter: str = "", **workload: Any) -> Settings:
    """A workload ``tasks-1`` with inbound port 10030 whose registry is the Consul agent at this port."""
    return Settings(
        kind="consul",
        address=Address("127.0.0.1", port),
        token=Secret(token),
        datacenter=datacenter,
        workload=tasks(**{"address": "127.0.0.1", "check_interval": 1.0, **workload}),
    )


def directory_settings(path: str, id: str = "tasks-1", **workload: Any) -> Settings:
    """The same with a folder as the registry."""
    return Settings(kind="directory", path=path, workload=tasks(id=id, **{"address": "127.0.0.1", **workload}))


def tasks(**more: Any) -> Workload:
    """The workload."""
    return Workload(**{"name": "tasks", "id": "tasks-1", "port": 10030, **more})


class Seen:
    """An ``on_change`` that keeps every set it was called with."""

    def __init__(self) -> None:
        self.sets: list[tuple[Instance, ...]] = []

    def __call__(self, instances: tuple[Instance, ...]) -> None:
        self.sets.append(instances)

    @property
    def ids(self) -> list[str] | None:
        """Ids of the last set; None before the first call."""
        return [instance.id for instance in self.sets[-1]] if self.sets else None


async def until(what: Callable[[], Any], text: str, seconds: float = PATIENCE) -> float:
    """Wait until ``what`` is true and return how long that took; fail with ``text`` when it is not in time. It
    may block for a moment (ask a server), so it is called in a thread."""
    begun = time.monotonic()
    while not await asyncio.to_thread(what):
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {text}"
        await asyncio.sleep(min(max((time.monotonic() - begun) / 10, 0.01), 0.1))
    return time.monotonic() - begun


class Told:
    """Hears of a value."""

    def __init__(self) -> None:
        self.all: list[Found] = []

    def __call__(self, found: Found) -> None:
        self.all.append(found)

    @property
    def data(self) -> bytes | None:
        return self.all[-1].data if self.all else b"nothing yet"

    @property
    def version(self) -> object:
        return self.all[-1].version


@asynccontextmanager
async def opened(*settings: Settings) -> AsyncIterator[list[Registry]]:
    found = [it for each in settings if (it := registries.create(each)) is not None]
    try:
        async with asyncio.timeout(100):
            yield found
    finally:
        for it in found:
            await it.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())
