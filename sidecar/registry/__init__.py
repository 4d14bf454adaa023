"""Registries: where this workload is made known and others are found.

:func:`create` gives the configured one. Each kind is imported only when it is asked for, because the Consul client
alone takes as much memory as the whole data plane.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sidecar.core.instance import Instance, OnChange
from sidecar.registry.api import Registration, Registry
from sidecar.registry.errors import RegistryError
from sidecar.registry.settings import CONSUL, Settings, Workload
from sidecar.registry.shared_value import Found, LocalValue, SharedValue

__all__ = [
    "CONSUL",
    "Found",
    "Instance",
    "LocalValue",
    "OnChange",
    "Registration",
    "Registry",
    "RegistryError",
    "Settings",
    "SharedValue",
    "Workload",
    "create",
]


def create(settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> Registry | None:
    """The registry that ``settings`` name, or None for ``none``. Nothing is sent before the first ``watch`` or
    ``register``. ``clock`` gives seconds, never going back.

    Raises :class:`RegistryError` when a registry folder cannot be created or written.
    """
    if settings.kind == "consul":
        from sidecar.registry.consul import ConsulRegistry

        return ConsulRegistry(settings, clock=clock)
    if settings.kind == "directory":
        from sidecar.registry.directory import DirectoryRegistry

        return DirectoryRegistry(settings, clock=clock)
    return None
