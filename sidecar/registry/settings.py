"""What registries are told: which one it is, and the workload that is registered. The agent derives both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sidecar.core.address import Address
from sidecar.core.secret import NO_SECRET, Secret

#: Where a Consul agent listens, unless it is told otherwise.
CONSUL: Final = Address("127.0.0.1", 8500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What others find: a service's instance, where they dial it, and the weights that it asks for by its health.
    ``check_interval`` is how often its app is checked, ``deregister_after`` how long it may be critical; seconds.
    ``fronted``: a sidecar stands before it; ``admin`` is the port of its admin API, if other sidecars can ask there why
    a request failed (0: they cannot)."""

    name: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    passing_weight: int = 10
    warning_weight: int = 1
    check_interval: float = 10.0
    deregister_after: float = 60.0
    fronted: bool = True
    admin: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``kind`` is ``consul``, ``directory`` or ``none``. Without a ``workload`` nothing is registered: it has nothing
    that others could dial."""

    kind: str = "none"
    address: Address = CONSUL
    tls: bool = False
    path: str = ""
    token: Secret = NO_SECRET
    datacenter: str = ""
    workload: Workload | None = None
