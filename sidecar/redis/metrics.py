"""Families of shared limits."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.core.metrics import Family, counter, gauge
from sidecar.redis.limits import SharedLimits


def families(limits: SharedLimits) -> Iterable[Family]:
    """Return what was asked of Redis, and how it went without."""
    checks = counter(
        "sidecar_shared_limit_checks",
        "Questions to Redis (granted, refused, failed), and requests decided without it (local, refuse, allow).",
        ("outcome",),
    )
    for outcome, count in limits.counts.items():
        checks.add((outcome,), count)
    up = gauge("sidecar_redis_up", "Whether Redis, which shared limits are kept in, can be asked.")
    up.add((), float(limits.client.up))
    return checks, up
