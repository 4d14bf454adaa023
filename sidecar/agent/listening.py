"""The servers beside the traffic: the admin API, and the listener for machines with its registration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from sidecar.agent import settings
from sidecar.config.schema import Config
from sidecar.core.address import Address
from sidecar.exchange.listener import ListenerError, bind_failure
from sidecar.registry import Registration, Registry, Workload

if TYPE_CHECKING:
    from sidecar.admin.server import AdminServer


class Listening:
    """Those that run, by the name of their section."""

    def __init__(self) -> None:
        self._servers: dict[str, AdminServer] = {}
        self._enrolled: Registration | None = None

    async def add(self, name: str, bind: Address, starting: Awaitable[AdminServer]) -> None:
        """Wait until that one serves. Raises :class:`ListenerError` when it cannot."""
        try:
            self._servers[name] = await starting
        except OSError as error:
            raise ListenerError(f"{name}: cannot listen on {bind}: {bind_failure(error)}") from error

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Where they really listen."""
        return {name: Address(*server.address) for name, server in self._servers.items()}

    def enroll(self, registry: Registry | None, config: Config) -> None:
        """Make the listener for machines known, also while the app is not well: that is when scrapers need it."""
        if registry is not None and "probes" in self._servers:
            self._enrolled = registry.enroll(self._workload(config))
            self._enrolled.set_health("passing", "this sidecar runs")

    def changed(self, config: Config) -> None:
        """Register it anew for another configuration, if it is registered."""
        if self._enrolled is not None:
            self._enrolled.change(self._workload(config))

    def _workload(self, config: Config) -> Workload:
        addresses = self.addresses
        return settings.of_probes(config, addresses["probes"].port, addresses.get("admin"))

    async def leave(self, registry: Registry) -> None:
        """Take out what is still registered, the workload too."""
        enrolled, self._enrolled = self._enrolled, None
        leaving = [registry.deregister(), *(it.leave() for it in (enrolled,) if it is not None)]
        await asyncio.gather(*leaving)

    async def close(self) -> None:
        """Stop all of them."""
        servers = [*self._servers.values()]
        self._servers.clear()
        for server in servers:
            await server.close()
