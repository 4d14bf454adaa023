"""Puts together what sidecars told: services with their instances, and edges as their callers measured them.

A pure function of summaries: rates and counts add up, so neither the order of summaries nor how they were grouped
changes anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import fsum
from operator import add
from typing import Any, Final

from sidecar.admin.mesh.summary import Call, Flow, Summary
from sidecar.core.stats import BUCKETS

#: Services and edges of one map; what is beyond is counted in ``left_out``.
MOST_SERVICES: Final = 5000
MOST_EDGES: Final = 50_000
#: Shares of errors from which a service that has no word of its own is not well.
DOUBTFUL: Final = 0.01
BROKEN: Final = 0.5

#: Bounds of the buckets, milliseconds, the lowest included.
_BOUNDS: Final = (0.0, *(bound * 1000 for bound in BUCKETS))
_BUCKETS: Final = len(BUCKETS)
_WORST: Final = {"unknown": 0, "healthy": 1, "warning": 2, "unhealthy": 3, "not_answering": 4}


def merge(summaries: Iterable[Summary]) -> dict[str, Any]:
    """The map, as ``GET /mesh`` answers it."""
    services: dict[str, list[Summary]] = {}
    edges: dict[tuple[str, str], list[Call]] = {}
    towards: dict[str, list[Call]] = {}
    left_out = 0
    for it in sorted(summaries, key=lambda it: (it.service, it.id, it.admin)):
        if it.service not in services and len(services) >= MOST_SERVICES:
            left_out += 1
            continue
        services.setdefault(it.service, []).append(it)
        for call in it.calls:
            key = (it.service, call.to)
            if key not in edges and len(edges) >= MOST_EDGES:
                left_out += 1
                continue
            if key in edges:
                edges[key].append(call)
            else:
                edges[key] = [call]
    for (_, end), calls in edges.items():
        if end not in services:
            towards.setdefault(end, []).extend(calls)
    found = [_service(name, told) for name, told in sorted(services.items())]
    found += [_outside(name, calls) for name, calls in sorted(towards.items()) if name not in services]
    return {
        "services": found,
        "edges": [_edge(start, end, calls) for (start, end), calls in sorted(edges.items())],
        "left_out": left_out,
    }


def _service(name: str, told: Sequence[Summary]) -> dict[str, Any]:
    """One that has sidecars."""
    status, most = Counter(it.status for it in told).most_common(1)[0]
    if most * 2 <= len(told) or (status == "healthy" and most < len(told)):  # some instances are not as others
        status = "warning"
    return {
        "name": name,
        "kind": "service",
        "instances": len(told),
        **_figures([it.flow for it in told]),
        "status": status,
        "problem": next((it.problem for it in told if it.problem), ""),
        "sidecars": [{"id": it.id, "admin": it.admin, "status": it.status, "problem": it.problem} for it in told],
    }


def _outside(name: str, calls: Sequence[Call]) -> dict[str, Any]:
    """One that has none, as its callers see it."""
    figures = _figures([call.flow for call in calls])
    share = figures["error_rate"] or 0.0
    status = max((call.status for call in calls), key=_WORST.__getitem__)
    if len({call.status for call in calls}) > 1 or (status == "healthy" and share >= DOUBTFUL):
        status = "warning"
    if share >= BROKEN:
        status = "unhealthy"
    return {"name": name, "kind": "outside", "instances": 0, **figures, "status": status,
            "problem": next((call.problem for call in calls if call.problem), ""), "sidecars": []}  # fmt: skip


def _edge(start: str, end: str, calls: Sequence[Call]) -> dict[str, Any]:
    first = calls[0]
    status, problem = first.status, first.problem
    if len(calls) > 1:  # most edges are of one caller, and there may be very many
        status = max((call.status for call in calls), key=_WORST.__getitem__)
        problem = next((call.problem for call in calls if call.problem), "")
        figures = _figures([call.flow for call in calls])
    else:
        figures = _of_one(first.flow)
    figures["from"] = start
    figures["to"] = end
    figures["protocol"] = first.protocol
    figures["status"] = status
    figures["problem"] = problem
    figures["silent"] = not figures["rate"]
    return figures


def _figures(flows: Sequence[Flow | None]) -> dict[str, Any]:
    """Per second, and milliseconds; null where nothing is known."""
    known = [flow for flow in flows if flow is not None]
    if len(known) < 2:
        return _of_one(known[0] if known else None)
    counts = known[0].counts
    for flow in known[1:]:
        counts = [*map(add, counts, flow.counts)]
    return _of_one(Flow(fsum(flow.rate for flow in known), fsum(flow.errors for flow in known), counts))


def _of_one(flow: Flow | None) -> dict[str, Any]:
    if flow is None:
        return {"rate": None, "error_rate": None, "p50_ms": None, "p99_ms": None}
    rate = flow.rate
    p50, p99 = quantiles(flow.counts)
    # Rounded by hand, here and below: none is negative, and round() would be a fifth of the time of a large map.
    return {
        "rate": int(rate * 100.0 + 0.5) / 100.0,
        "error_rate": int(flow.errors / rate * 10_000.0 + 0.5) / 10_000.0 if rate else None,
        "p50_ms": p50,
        "p99_ms": p99,
    }


def quantiles(counts: Sequence[int]) -> tuple[float | None, float | None]:
    """The median and the 99th percentile, milliseconds, as :meth:`sidecar.core.stats.Histogram.quantile` finds them."""
    seen = [*accumulate(counts)]
    if not seen or not seen[-1]:
        return None, None
    return _quantile(seen, 0.5), _quantile(seen, 0.99)


def _quantile(seen: Sequence[int], share: float) -> float:
    """That of counts which are added up already. The last bucket has no upper bound: its lower one is told."""
    wanted = share * seen[-1]
    bucket = bisect_left(seen, wanted)
    if bucket >= _BUCKETS:
        return _BOUNDS[-1]
    before = seen[bucket - 1] if bucket else 0
    lower = _BOUNDS[bucket]
    found = lower + (_BOUNDS[bucket + 1] - lower) * (wanted - before) / (seen[bucket] - before)
    return int(found * 10.0 + 0.5) / 10.0
