"""What endpoints and the names that they come from count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.core.metrics import Family, counter, gauge
from sidecar.endpoints.endpoint import Endpoint


def families(upstreams: Mapping[str, Sequence[Endpoint]]) -> Iterable[Family]:
    """Return how many endpoints each upstream has, by state."""
    endpoints = gauge("sidecar_endpoints", "Known endpoints: healthy, warning, ejected.", ("upstream", "state"))
    for name, known in upstreams.items():
        counts = {"healthy": 0, "warning": 0, "ejected": 0}
        for endpoint in known:
            counts["ejected" if endpoint.ejected_until else endpoint.state] += 1
        for state, n in counts.items():
            endpoints.add((name, state), n)
    return (endpoints,)


def lookup_families(lookups: Mapping[str, int]) -> Iterable[Family]:
    """Return the lookups of host names, by what came of them."""
    found = counter("sidecar_dns_lookups", "Lookups of host names: ok, missing (no such name), failed.", ("outcome",))
    for outcome, n in lookups.items():
        found.add((outcome,), n)
    return (found,)
