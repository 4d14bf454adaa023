"""What a registry counts."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.core.metrics import Family, gauge
from sidecar.registry.api import Registry


def families(registry: Registry) -> Iterable[Family]:
    """Return whether it answers, and since when it does not."""
    up = gauge("sidecar_registry_up", "Whether the registry answers.")
    up.add((), float(registry.up))
    age = gauge("sidecar_registry_age_seconds", "Time since the registry last answered.")
    age.add((), registry.age)
    return up, age
