"""Families of what listeners count, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import INF, floatToGoString

from sidecar.core.stats import Histogram, ListenerStats, code_label


def families(listeners: Sequence[ListenerStats]) -> Iterator[Metric]:
    """Traffic, connections, and what filters count."""
    yield from _traffic(listeners)
    yield from _connections(listeners)
    yield from _filters(listeners)


def _traffic(listeners: Sequence[ListenerStats]) -> Iterable[Metric]:
    both = ["direction", "upstream"]
    requests = CounterMetricFamily("sidecar_requests", "Finished exchanges.", labels=[*both, "method", "code"])
    duration = HistogramMetricFamily(
        "sidecar_request_duration_seconds", "From a request's head to the end of its answer.", labels=both
    )
    active = GaugeMetricFamily("sidecar_requests_active", "Exchanges under way.", labels=both)
    pending = GaugeMetricFamily("sidecar_requests_pending", "Exchanges waiting in the bulkhead.", labels=both)
    retries = CounterMetricFamily("sidecar_retries", "Tries that were repeated.", labels=["upstream", "reason"])
    rejected = CounterMetricFamily(
        "sidecar_rejected", "Exchanges that the sidecar itself answered or cut.", labels=[*both, "error"]
    )
    reasons: Counter[tuple[str, str]] = Counter()  # a service may have the name of an upstream
    passed = CounterMetricFamily("sidecar_bytes", "Body and tunnel bytes.", labels=[*both, "way"])
    for stats in listeners:
        labels = [stats.direction, stats.upstream]
        for (method, code), n in list(stats.requests.items()):
            requests.add_metric([*labels, method, code_label(code)], n)
        duration.add_metric(labels, _cumulated(stats.duration), stats.duration.total)
        active.add_metric(labels, stats.active)
        pending.add_metric(labels, stats.pending)
        for reason, n in list(stats.retries.items()):
            reasons[stats.upstream, reason] += n
        for error, n in list(stats.rejected.items()):
            rejected.add_metric([*labels, error], n)
        bytes_in, bytes_out = stats.passed()
        passed.add_metric([*labels, "in"], bytes_in)
        passed.add_metric([*labels, "out"], bytes_out)
    for key, n in reasons.items():
        retries.add_metric(key, n)
    return requests, duration, active, pending, retries, rejected, passed


def _connections(listeners: Sequence[ListenerStats]) -> Iterable[Metric]:
    connections = GaugeMetricFamily(
        "sidecar_connections",
        "Open connections: accepted (client), to an endpoint and in use (active) or kept (idle), relayed (tunnel).",
        labels=["direction", "upstream", "state"],
    )
    for stats in listeners:
        labels = [stats.direction, stats.upstream]
        connections.add_metric([*labels, "client"], stats.client_connections)
        connections.add_metric([*labels, "active"], stats.upstream_active)
        connections.add_metric([*labels, "idle"], stats.upstream_idle)
        connections.add_metric([*labels, "tunnel"], stats.tunnels)
    return [connections]


def _filters(listeners: Sequence[ListenerStats]) -> Iterable[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    failures = CounterMetricFamily(
        "sidecar_filter_failures",
        "Hooks of other packages' filters that raised.",
        labels=["direction", "upstream", "filter", "hook"],
    )
    for stats in listeners:
        for name, it in list(stats.filters.items()):
            for counter, help_text in it.counters.items():
                full = f"{it.prefix}{name}_{counter}"
                if full not in families:
                    families[full] = CounterMetricFamily(full, help_text, labels=["direction", "upstream"])
                families[full].add_metric([stats.direction, stats.upstream], it.counts[counter])
            for hook, n in list(it.failures.items()):
                failures.add_metric([stats.direction, stats.upstream, name, hook], n)
    return (*families.values(), failures) if failures.samples else families.values()


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, count up to it) as Prometheus wants them."""
    seen = 0
    buckets = []
    for bound, n in zip((*histogram.bounds, INF), histogram.counts, strict=True):
        seen += n
        buckets.append((floatToGoString(bound), float(seen)))  # type: ignore[no-untyped-call]
    return buckets
