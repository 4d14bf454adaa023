"""What endpoints and the names that they come from count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sidecar.core.metrics import Family, counter, gauge, histogram
from sidecar.core.stats import code_label
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.balancers.consistent_hash import ConsistentHash
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.subsets import Subset

#: Endpoints of an upstream that have series of their own, and the label of all that are beyond.
MAX_ENDPOINTS: Final = 50
OTHER: Final = "other"


def families(upstreams: Mapping[str, Sequence[Endpoint]]) -> Iterable[Family]:
    """Return how many endpoints each upstream has, by state."""
    endpoints = gauge(
        "sidecar_endpoints", "Known endpoints: healthy, warning, unhealthy, ejected.", ("upstream", "state")
    )
    for name, known in upstreams.items():
        counts = {"healthy": 0, "warning": 0, "unhealthy": 0, "ejected": 0}
        for endpoint in known:
            counts["ejected" if endpoint.ejected_until else endpoint.state] += 1
        for state, n in counts.items():
            endpoints.add((name, state), n)
    return (endpoints,)


def endpoint_families(upstreams: Mapping[str, Sequence[Endpoint]]) -> Iterable[Family]:
    """Return what single endpoints count. The first :data:`MAX_ENDPOINTS` of an upstream have series of their own, the
    others share those of :data:`OTHER`."""
    labels = ("upstream", "endpoint")
    each = (
        counter("sidecar_endpoint_requests", "Tries that were sent to an endpoint.", labels),
        counter("sidecar_endpoint_seconds", "Time of those that are over.", labels),
        counter("sidecar_endpoint_failures", "Those that it failed.", labels),
        gauge("sidecar_endpoint_active", "Exchanges under way there.", labels),
        gauge("sidecar_endpoint_ejected", "1 while it is ejected: out of the rotation for a while.", labels),
    )
    for name, known in upstreams.items():
        others = [0.0] * len(each)
        for n, it in enumerate(known):
            counts = it.tries, it.seconds, it.failed, it.active, bool(it.ejected_until)
            if n < MAX_ENDPOINTS:
                label = (name, it.address)
                for family, value in zip(each, counts, strict=True):
                    family.add(label, value)
            else:
                others = [there + more for there, more in zip(others, counts, strict=True)]
        if len(known) > MAX_ENDPOINTS:
            for family, value in zip(each, others, strict=True):
                family.add((name, OTHER), value)
    return (*each, _estimates(upstreams))


def _estimates(upstreams: Mapping[str, Sequence[Endpoint]]) -> Family:
    """What balancers expect of single endpoints."""
    found = gauge(
        "sidecar_endpoint_ewma_seconds",
        "Peak EWMA of the time to an answer, after the last one: with peak_ewma and prequal.",
        ("upstream", "endpoint"),
    )
    for name, known in upstreams.items():
        for it in known[:MAX_ENDPOINTS]:
            if it.load.measured_at >= 0:
                found.add((name, it.address), it.load.ewma)
    return found


def overflow_families(balancers: Mapping[str, Balancer]) -> Iterable[Family]:
    """Return how often a key's endpoint was full, for upstreams that hash."""
    found = counter(
        "sidecar_hash_overflows",
        "Tries that went to another endpoint than their key's, as that was full.",
        ("upstream",),
    )
    for name, it in balancers.items():
        if isinstance(it, ConsistentHash):
            found.add((name,), it.overflows)
    return (found,)


def ejection_families(upstreams: Mapping[str, Mapping[str, int]]) -> Iterable[Family]:
    """Return how often endpoints of each upstream were ejected, by reason."""
    found = counter(
        "sidecar_ejections",
        "Endpoints that were ejected: unreachable, consecutive (failures), error_rate, latency.",
        ("upstream", "reason"),
    )
    for name, reasons in upstreams.items():
        for reason, n in reasons.items():
            found.add((name, reason), n)
    return (found,)


def subset_families(upstreams: Mapping[str, Iterable[tuple[Subset, float]]]) -> Iterable[Family]:
    """Return what the subsets of each upstream count, each handed in with its share of the requests."""
    labels = ("upstream", "subset")
    requests = counter(
        "sidecar_subset_requests",
        "Tries that went to a subset, by status; without an answer by the status that stands for that.",
        (*labels, "code"),
    )
    duration = histogram("sidecar_subset_first_byte_seconds", "From such a try's begin to its answer's head.", labels)
    share = gauge("sidecar_subset_share", "The part of the upstream's requests that a subset gets.", labels)
    for name, subsets in upstreams.items():
        for it, part in subsets:
            for code, n in list(it.requests.items()):
                requests.add((name, it.label, code_label(code)), n)
            duration.add_histogram((name, it.label), it.duration)
            share.add((name, it.label), part)
    return (requests, duration, share)


def canary_families(weights: Mapping[str, int], sidecars: Mapping[str, int]) -> Iterable[Family]:
    """Return what the canaries of upstreams get, handed in as percent, and by the evidence of how many sidecars each is
    judged."""
    found = gauge(
        "sidecar_canary_weight", "The part of the requests that the canary's subset is to get.", ("upstream",)
    )
    for name, percent in weights.items():
        found.add((name,), percent / 100)
    judged = gauge(
        "sidecar_canary_sidecars", "Sidecars by whose evidence the canary is judged here; 0: it is not judged.",
        ("upstream",),
    )  # fmt: skip
    for name, many in sidecars.items():
        judged.add((name,), many)
    return (found, judged)


def lookup_families(lookups: Mapping[str, int]) -> Iterable[Family]:
    """Return the lookups of host names, by what came of them."""
    found = counter("sidecar_dns_lookups", "Lookups of host names: ok, missing (no such name), failed.", ("outcome",))
    for outcome, n in lookups.items():
        found.add((outcome,), n)
    return (found,)
