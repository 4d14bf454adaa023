"""Families of what listeners count, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sidecar.core.metrics import Family, counter, gauge, histogram
from sidecar.core.stats import ListenerStats, code_label
from sidecar.telemetry import llm_metrics


def families(listeners: Sequence[ListenerStats]) -> Iterator[Family]:
    """Traffic, connections, and what filters count."""
    yield from _traffic(listeners)
    yield from _retries(listeners)
    yield from _faults(listeners)
    yield from _failures(listeners)
    yield from _connections(listeners)
    yield from _cache(listeners)
    yield from llm_metrics.families(listeners)
    yield from _filters(listeners)


def _traffic(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    both = ["direction", "upstream"]
    requests = counter("sidecar_requests", "Finished exchanges.", [*both, "method", "code"])
    duration = histogram("sidecar_request_duration_seconds", "From a request's head to the end of its answer.", both)
    first_byte = histogram("sidecar_first_byte_seconds", "From a request's head to that of its answer.", both)
    active = gauge("sidecar_requests_active", "Exchanges under way.", both)
    pending = gauge("sidecar_requests_pending", "Exchanges waiting in the bulkhead.", both)
    waiting = gauge("sidecar_requests_waiting", "Exchanges waiting for their upstream to come back.", ["upstream"])
    limit = gauge("sidecar_concurrency_limit", "The most exchanges at once that the bulkhead allows.", ["upstream"])
    fallbacks = counter(
        "sidecar_fallbacks", "Answers of a fallback's step, in place of the upstream's.", ["upstream", "step"]
    )
    rejected = counter("sidecar_rejected", "Exchanges that the sidecar itself answered or cut.", [*both, "error"])
    shed = counter("sidecar_shed", "Requests that a bulkhead gave up, by priority.", [*both, "priority"])
    limits: dict[str, int] = {}
    passed = counter("sidecar_bytes", "Body and tunnel bytes.", [*both, "way"])
    for stats in listeners:
        labels = [stats.direction, stats.upstream]
        for (method, code), n in stats.requests.items():
            requests.add([*labels, method, code_label(code)], n)
        duration.add_histogram(labels, stats.duration)
        if stats.protocol == "http":
            first_byte.add_histogram(labels, stats.first_byte)
        active.add(labels, stats.active)
        pending.add(labels, stats.pending)
        limits[stats.upstream] = stats.limit
        for priority, n in list(stats.shed.items()):
            shed.add([*labels, priority], n)
        for step, n in list(stats.fallbacks.items()):
            fallbacks.add([stats.upstream, str(step)], n)
        if "wait" in stats.filters:
            waiting.add([stats.upstream], stats.waiting)
        for error, n in list(stats.rejected.items()):
            rejected.add([*labels, error], n)
        bytes_in, bytes_out = stats.passed()
        passed.add([*labels, "in"], bytes_in)
        passed.add([*labels, "out"], bytes_out)
    for name, most in limits.items():
        if most:
            limit.add((name,), most)
    return (
        *(requests, duration, first_byte, active, pending, waiting, limit),
        *(fallbacks, rejected, shed, passed),
    )


def _retries(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    retries = counter("sidecar_retries", "Tries that were repeated.", ["upstream", "reason"])
    suppressed = counter(
        "sidecar_retries_suppressed", "Tries that were not repeated though they could be.", ["upstream", "reason"]
    )
    hedges = counter(
        "sidecar_hedges", "Second tries beside a slow first one, by what came of them.", ["upstream", "outcome"]
    )
    mirrored = counter(
        "sidecar_mirrored", "Copies of requests for another upstream, by what came of them.", ["upstream", "outcome"]
    )
    budget = gauge("sidecar_retry_budget", "Retries that there may be at once.", ["upstream"])
    for stats in listeners:
        for reason, n in list(stats.suppressed.items()):
            suppressed.add([stats.upstream, reason], n)
        for outcome, n in list(stats.hedges.items()):
            hedges.add([stats.upstream, outcome], n)
        for outcome, n in list(stats.mirrored.items()):
            mirrored.add([stats.upstream, outcome], n)
        if stats.retry_budget is not None:
            budget.add([stats.upstream], stats.retry_budget())
    _summed(retries, [(it.upstream, it.retries) for it in listeners])
    return retries, suppressed, hedges, mirrored, budget


def _faults(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    injected = counter("sidecar_faults_injected", "Faults that were injected on purpose.", ["upstream", "kind"])
    return [_summed(injected, [(it.upstream, it.faults) for it in listeners])]


def _summed(family: Family, counts: Iterable[tuple[str, Mapping[str, int]]]) -> Family:
    """The family with all that was counted, by an upstream's name and a second label. Of both directions, as a service
    may have the name of an upstream."""
    sums: Counter[tuple[str, str]] = Counter()
    for upstream, by_label in counts:
        for label, n in list(by_label.items()):
            sums[upstream, label] += n
    for key, n in sums.items():
        family.add(key, n)
    return family


def _failures(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    connect = counter(
        "sidecar_connect_failures", "Connections that could not be made, by cause.", ["direction", "upstream", "cause"]
    )
    peers = counter(
        "sidecar_peer_errors",
        "Answers of peer sidecars in place of their apps, by code.",
        ["direction", "upstream", "error"],
    )
    for stats in listeners:
        labels = [stats.direction, stats.upstream]
        for cause, n in list(stats.connect_failures.items()):
            connect.add([*labels, cause], n)
        for error, n in list(stats.peer_errors.items()):
            peers.add([*labels, error], n)
    return connect, peers


def _cache(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    family = counter("sidecar_cache", "Requests that came by a cache, by what it did.", ["upstream", "outcome"])
    return [_summed(family, [(it.upstream, it.cache) for it in listeners])]


def _connections(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    connections = gauge(
        "sidecar_connections",
        "Open connections: accepted (client), to an endpoint and in use (active) or kept (idle), relayed (tunnel).",
        ["direction", "upstream", "state"],
    )
    for stats in listeners:
        labels = [stats.direction, stats.upstream]
        connections.add([*labels, "client"], stats.client_connections)
        connections.add([*labels, "active"], stats.upstream_active)
        connections.add([*labels, "idle"], stats.upstream_idle)
        connections.add([*labels, "tunnel"], stats.tunnels)
    return [connections]


def _filters(listeners: Sequence[ListenerStats]) -> Iterable[Family]:
    families: dict[str, Family] = {}
    failures = counter(
        "sidecar_filter_failures",
        "Hooks of other packages' filters that raised.",
        ["direction", "upstream", "filter", "hook"],
    )
    for stats in listeners:
        for name, it in list(stats.filters.items()):
            for counted, help_text in it.counters.items():
                full = f"{it.prefix}{name}_{counted}"
                if full not in families:
                    families[full] = counter(full, help_text, ["direction", "upstream"])
                families[full].add([stats.direction, stats.upstream], it.counts[counted])
            for hook, n in list(it.failures.items()):
                failures.add([stats.direction, stats.upstream, name, hook], n)
    return (*families.values(), failures) if failures.samples else families.values()
