"""What tests of registries share: configurations, a listener that remembers, waiting for a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sidecar.config.model import Address, Check, Config, Consul, Inbound, Registry, Service
from sidecar.core.instance import Instance
from sidecar.core.secret import Secret
from support.patience import PATIENCE

OFTEN = Check(interval=1.0)


def consul_config(port: int, *, token: str = "", check: Check = OFTEN, datacenter: str = "", **service: Any) -> Config:
    """A workload ``tasks-1`` with inbound port 10030 whose registry is the Consul agent at this port."""
    return Config(
        service=Service(**{"name": "tasks", "id": "tasks-1", "address": "127.0.0.1", "check": check, **service}),
        registry=Registry(kind="consul", address=Address("127.0.0.1", port)),
        consul=Consul(token=Secret(token), datacenter=datacenter),
        inbound=Inbound(bind=Address("0.0.0.0", 10030)),
    )


def directory_config(path: str, id: str = "tasks-1", **service: Any) -> Config:
    """The same with a folder as the registry."""
    return Config(
        service=Service(**{"name": "tasks", "id": id, "address": "127.0.0.1", **service}),
        registry=Registry(kind="directory", path=path),
        inbound=Inbound(bind=Address("0.0.0.0", 10030)),
    )


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
        await asyncio.sleep(0.01)
    return time.monotonic() - begun
