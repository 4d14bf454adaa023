"""Prometheus' page, made when it is scraped: of what listeners count, and of families that others contribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.core.metrics import Family, Source, counter, gauge
from sidecar.core.stats import ListenerStats
from sidecar.telemetry import listener_metrics


class Metrics:
    """The metrics of one running sidecar, in a registry of their own (nothing global). ``listeners`` gives the counters
    of all listeners, inbound first; ``sources`` the families of those who own something else."""

    def __init__(self, listeners: Callable[[], Sequence[ListenerStats]], sources: Sequence[Source]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(listeners, sources))
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

    def __init__(self, listeners: Callable[[], Sequence[ListenerStats]], sources: Sequence[Source]) -> None:
        self._listeners = listeners
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        yield from listener_metrics.families(self._listeners())
        for source in self._sources:
            for family in source():
                yield _metric(family)


def _metric(family: Family) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in family.samples:
        metric.add_metric(labels, value)
    return metric


def own_families(service: str, log_lines_dropped: int, spans_dropped: int) -> Sequence[Family]:
    """Return what telemetry has lost, and which sidecar this is."""
    lines = counter("sidecar_log_lines_dropped", "Log lines that could not be written.")
    lines.add((), log_lines_dropped)
    spans = counter("sidecar_spans_dropped", "Spans that were not delivered.")
    spans.add((), spans_dropped)
    info = gauge("sidecar_build_info", "Which sidecar this is.", ("version", "service"))
    info.add((__version__, service), 1)
    return lines, spans, info
