"""What queues of requests count."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.core.metrics import Family, counter, gauge
from sidecar.core.stats import ListenerStats, QueueStats


def families(listeners: Iterable[ListenerStats]) -> Iterable[Family]:
    """Return what is stored and what became of requests, by the listener's name; nothing where there is no queue."""
    labels = ("upstream",)
    waiting = gauge("sidecar_queued_requests", "Stored requests that have no outcome yet.", labels)
    size = gauge("sidecar_queued_bytes", "What they take on disk, about.", labels)
    outcomes = counter("sidecar_queued", "What became of requests that may be queued.", (*labels, "outcome"))
    sums: dict[str, QueueStats] = {}  # a service may have the name of an upstream
    for stats in listeners:
        queue = stats.queue
        if queue is not None:
            total = sums.setdefault(stats.upstream, QueueStats())
            total.requests += queue.requests
            total.bytes += queue.bytes
            for outcome, n in list(queue.outcomes.items()):
                total.outcomes[outcome] += n
    for name, total in sums.items():
        waiting.add((name,), total.requests)
        size.add((name,), total.bytes)
        for outcome, n in total.outcomes.items():
            outcomes.add((name, outcome), n)
    return (waiting, size, outcomes) if sums else ()
