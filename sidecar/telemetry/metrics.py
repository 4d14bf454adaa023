"""Prometheus metrics, made from the data plane's plain counters at the moment they are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

from sidecar import __version__
from sidecar.core.stats import QueueStats, code_label

if TYPE_CHECKING:
    from sidecar.admin.view import Running
    from sidecar.core.stats import Histogram


class Metrics:
    """The metrics of one running sidecar, in a registry of their own (nothing global)."""

    def __init__(self, running: Running) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(running))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics where ``accept`` asks for it, else Prometheus' text format."""
        # Only one of two fixed strings goes on: the encoder's parser stumbles over odd versions.
        wanted = "application/openmetrics-text" if "application/openmetrics-text" in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(self._registry), content_type


class _Collector(Collector):
    """docs/reference.md has a table of what each one means."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def collect(self) -> Iterator[Metric]:
        yield from self._traffic()
        yield from self._connections()
        yield from self._queues()
        yield from self._filters()
        yield from self._upstreams()
        yield from self._running.families()
        yield from self._itself()

    def _traffic(self) -> Iterable[Metric]:
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
        for stats in self._running.stats:
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

    def _connections(self) -> Iterable[Metric]:
        connections = GaugeMetricFamily(
            "sidecar_connections",
            "Open connections: accepted (client), to an endpoint and in use (active) or kept (idle), relayed (tunnel).",
            labels=["direction", "upstream", "state"],
        )
        for stats in self._running.stats:
            labels = [stats.direction, stats.upstream]
            connections.add_metric([*labels, "client"], stats.client_connections)
            connections.add_metric([*labels, "active"], stats.upstream_active)
            connections.add_metric([*labels, "idle"], stats.upstream_idle)
            connections.add_metric([*labels, "tunnel"], stats.tunnels)
        return [connections]

    def _queues(self) -> Iterable[Metric]:
        labels = ["upstream"]
        waiting = GaugeMetricFamily(
            "sidecar_queued_requests", "Stored requests that have no outcome yet.", labels=labels
        )
        size = GaugeMetricFamily("sidecar_queued_bytes", "What they take on disk, about.", labels=labels)
        outcomes = CounterMetricFamily(
            "sidecar_queued", "What became of requests that may be queued.", labels=[*labels, "outcome"]
        )
        sums: dict[str, QueueStats] = {}  # a service may have the name of an upstream
        for stats in self._running.stats:
            queue = stats.queue
            if queue is not None:
                total = sums.setdefault(stats.upstream, QueueStats())
                total.requests += queue.requests
                total.bytes += queue.bytes
                for outcome, n in list(queue.outcomes.items()):
                    total.outcomes[outcome] += n
        for name, total in sums.items():
            waiting.add_metric([name], total.requests)
            size.add_metric([name], total.bytes)
            for outcome, n in total.outcomes.items():
                outcomes.add_metric([name, outcome], n)
        return (waiting, size, outcomes) if sums else ()

    def _filters(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        failures = CounterMetricFamily(
            "sidecar_filter_failures",
            "Hooks of other packages' filters that raised.",
            labels=["direction", "upstream", "filter", "hook"],
        )
        for stats in self._running.stats:
            for name, it in list(stats.filters.items()):
                for counter, help_text in it.counters.items():
                    full = f"{it.prefix}{name}_{counter}"
                    if full not in families:
                        families[full] = CounterMetricFamily(full, help_text, labels=["direction", "upstream"])
                    families[full].add_metric([stats.direction, stats.upstream], it.counts[counter])
                for hook, n in list(it.failures.items()):
                    failures.add_metric([stats.direction, stats.upstream, name, hook], n)
        return (*families.values(), failures) if failures.samples else families.values()

    def _upstreams(self) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "sidecar_circuit_breaker_state", "0 closed, 1 half-open, 2 open.", labels=["upstream"]
        )
        # Only grows, but a counter's name would have to end in _total, and this one is promised.
        open_for = GaugeMetricFamily(
            "sidecar_circuit_breaker_open_seconds", "Time spent open, in all.", labels=["upstream"]
        )
        endpoints = GaugeMetricFamily(
            "sidecar_endpoints", "Known endpoints: healthy, warning, ejected.", labels=["upstream", "state"]
        )
        for name, upstream in self._running.upstreams.items():
            breakers = upstream.breakers
            if breakers:  # one of a route that is worse than the upstream's own is what an alert should see
                state.add_metric([name], max(breaker.state for breaker in breakers))
                open_for.add_metric([name], max(breaker.open_seconds() for breaker in breakers))
            counts = {"healthy": 0, "warning": 0, "ejected": 0}
            for endpoint in upstream.endpoints:
                counts["ejected" if endpoint.ejected_until else endpoint.state] += 1
            for key, n in counts.items():
                endpoints.add_metric([name, key], n)
        return state, open_for, endpoints

    def _itself(self) -> Iterable[Metric]:
        running = self._running
        registry = running.registry
        if registry is not None:
            yield GaugeMetricFamily("sidecar_registry_up", "Whether the registry answers.", value=float(registry.up))
            yield GaugeMetricFamily(
                "sidecar_registry_age_seconds", "Time since the registry last answered.", value=registry.age
            )
        lookups = CounterMetricFamily(
            "sidecar_dns_lookups", "Lookups of host names: ok, missing (no such name), failed.", labels=["outcome"]
        )
        for outcome, n in running.lookups.items():
            lookups.add_metric([outcome], n)
        yield lookups
        yield CounterMetricFamily(
            "sidecar_log_lines_dropped", "Log lines that could not be written.", value=running.log_lines_dropped
        )
        yield CounterMetricFamily(
            "sidecar_spans_dropped", "Spans that were not delivered.", value=running.spans_dropped
        )
        info = GaugeMetricFamily("sidecar_build_info", "Which sidecar this is.", labels=["version", "service"])
        info.add_metric([__version__, running.config.service.name], 1)
        yield info


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, count up to it) as Prometheus wants them."""
    seen = 0
    buckets = []
    for bound, n in zip((*histogram.bounds, INF), histogram.counts, strict=True):
        seen += n
        buckets.append((floatToGoString(bound), float(seen)))  # type: ignore[no-untyped-call]
    return buckets
