"""What a gateway's or a Prometheus' file is made of: the route table, and what the registry has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sidecar.cli.export.table import RouteSettings, TableSettings, routes
from sidecar.core.instance import Instance
from sidecar.registry import Registry


@dataclass(frozen=True, slots=True)
class Mesh:
    """``routes``: the most specific ones first. ``instances``: of each service that a route leads to, the usable ones;
    ``None`` where the gateway finds them itself, by DNS. ``sidecars``: those that are registered."""

    table: TableSettings
    routes: Sequence[RouteSettings]
    instances: Mapping[str, Sequence[Instance]] | None = None
    sidecars: Sequence[Instance] = ()

    @property
    def services(self) -> Mapping[str, Sequence[RouteSettings]]:
        """Service → its routes; services by name."""
        found: dict[str, list[RouteSettings]] = {}
        for route in self.routes:
            found.setdefault(route.service, []).append(route)
        return dict(sorted(found.items()))


class Source:
    """Asks a registry for it, again and again if wanted."""

    def __init__(self, table: TableSettings, registry: Registry | None, *, targets: bool, sidecars: bool) -> None:
        self._table = table
        self._registry = registry
        self._targets = targets
        self._sidecars = sidecars
        self._found: dict[str, tuple[Instance, ...]] = {}
        self._watches: dict[str, Callable[[], None]] = {}

    async def ask(self) -> Mesh:
        """Raises OSError or TimeoutError when the registry cannot be asked."""
        registry = self._registry
        if registry is None:
            return Mesh(self._table, routes(self._table, {}))
        if self._sidecars:
            found = sorted(await registry.sidecars(), key=lambda it: (it.id, it.host, it.port))
            return Mesh(self._table, (), sidecars=found)
        wanted = routes(self._table, await registry.services())
        if not self._targets:
            return Mesh(self._table, wanted)
        self._follow(registry, {route.service for route in wanted})
        await registry.answered()
        instances = {
            name: sorted(self._found.get(name, ()), key=lambda it: (it.host, it.port)) for name in self._watches
        }
        return Mesh(self._table, wanted, instances)

    def _follow(self, registry: Registry, services: set[str]) -> None:
        for name in services - self._watches.keys():
            self._watches[name] = registry.watch(name, "", self._keeper(name))
        for name in self._watches.keys() - services:
            self._watches.pop(name)()
            self._found.pop(name, None)

    def _keeper(self, name: str) -> Callable[[tuple[Instance, ...]], None]:
        def keep(instances: tuple[Instance, ...]) -> None:
            self._found[name] = instances

        return keep
