"""Families of what became of spans. They are there without a collector, too, which what sends spans is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sidecar.core.metrics import Family, counter

if TYPE_CHECKING:
    from sidecar.telemetry.spans import SpanExporter

#: Why spans are not delivered: the queue was full; the collector could not be reached, or did not answer; it refused
#: the request; it took the request but for these; the sidecar ended.
REASONS: Final = ("queue_full", "unreachable", "refused", "rejected", "ended")


def families(exporter: SpanExporter | None, withheld: int) -> Sequence[Family]:
    """Return what became of spans; without a collector there are none. ``withheld`` counts exchanges and messages."""
    sent = counter("sidecar_spans_sent", "Spans that the trace collector took.")
    dropped = counter("sidecar_spans_dropped", "Spans that were not delivered, by reason.", ("reason",))
    sent.add((), exporter.sent if exporter is not None else 0)
    for reason in REASONS:
        dropped.add((reason,), exporter.dropped[reason] if exporter is not None else 0)
    kept = counter(
        "sidecar_traces_withheld", "Failed or slow exchanges and messages that came too fast for all to be recorded."
    )
    kept.add((), withheld)
    return sent, dropped, kept
