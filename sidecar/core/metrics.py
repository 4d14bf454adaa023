"""Families of metrics, as each room contributes them for what it owns; telemetry makes Prometheus' page of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sidecar.core.stats import Histogram


class Family:
    """A metric with its samples: their labels' values, in the order of ``labels``, and their value. The name of a
    counter is without ``_total``; a histogram has ``histograms`` in place of samples."""

    __slots__ = ("help", "histograms", "kind", "labels", "name", "samples")

    def __init__(self, kind: str, name: str, help: str, labels: Sequence[str]) -> None:
        self.kind = kind
        self.name = name
        self.help = help
        self.labels = labels
        self.samples: list[tuple[Sequence[str], float]] = []
        self.histograms: list[tuple[Sequence[str], Histogram]] = []

    def add(self, labels: Sequence[str], value: float) -> None:
        """Add a sample."""
        self.samples.append((labels, value))

    def add_histogram(self, labels: Sequence[str], value: Histogram) -> None:
        """Add the samples of a histogram."""
        self.histograms.append((labels, value))


#: Called at each scrape.
Source = Callable[[], Iterable[Family]]


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Family:
    """Return a family of something that only grows."""
    return Family("counter", name, help, labels)


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Family:
    """Return a family of something that goes up and down."""
    return Family("gauge", name, help, labels)


def histogram(name: str, help: str, labels: Sequence[str] = ()) -> Family:
    """Return a family of what was observed, counted by its size."""
    return Family("histogram", name, help, labels)
