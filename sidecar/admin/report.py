"""What the admin API says, as plain data: made from snapshots, without any HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sidecar.admin.snapshots import (
    BreakerSnapshot,
    EndpointSnapshot,
    NameSnapshot,
    SidecarSnapshot,
    SubsetSnapshot,
    UpstreamSnapshot,
)
from sidecar.core.address import Address
from sidecar.core.build import facts
from sidecar.core.stats import FilterStats, ListenerStats, code_label
from sidecar.core.text import counted, timestamp
from sidecar.resilience.breaker import Hold, held_words


def health(now: SidecarSnapshot, upstreams: Iterable[UpstreamSnapshot]) -> dict[str, Any]:
    """The workload's own health. ``unhealthy`` only if the app is: an upstream that is down, or whose breaker is open,
    is a warning, and so is a registry that is away, because restarting this workload would not mend them."""
    found = {it.name: upstream_health(it) for it in upstreams}
    registry = now.registry
    status = now.app.status
    away = registry is not None and not registry.up
    doubtful = now.waiting_for or away or now.faults or any(it["status"] != "healthy" for it in found.values())
    if status == "healthy" and doubtful:
        status = "warning"
    return {
        "status": status,
        "service": now.service,
        "id": now.id,
        "phase": now.phase,
        **facts(),
        "waiting_for": now.waiting_for or None,
        "faults": list(now.faults),
        "app": {"status": now.app.status, "output": now.app.output},
        "upstreams": found,
        "registry": None
        if registry is None
        else {"url": registry.url, "up": registry.up, "age": round(registry.age, 3)},
    }


def upstream_health(upstream: UpstreamSnapshot) -> dict[str, Any]:
    """From what traffic and the registry have shown, without asking anybody."""
    if broken := _broken(upstream):
        return {"status": "unhealthy", "output": "; ".join([broken, *upstream.doubts])}
    doubts = [*_doubts(upstream), *upstream.doubts]
    if doubts:
        return {"status": "warning", "output": "; ".join(doubts)}
    return {"status": "healthy", "output": counted(len(upstream.endpoints), "endpoint")}


def _broken(upstream: UpstreamSnapshot) -> str:
    """Why nothing gets through; empty when something may."""
    endpoints = upstream.endpoints
    if not endpoints:
        return f"no endpoints are known{f': {upstream.problem}' if upstream.problem else ''}"
    if upstream.breaker is not None and upstream.breaker.state == "open":
        forced = upstream.breaker.forced == "open"
        return f"the circuit breaker is {held_words('open', upstream.breaker.held) if forced else 'open'}"
    if upstream.broken:
        return upstream.broken
    if not all(endpoint.out for endpoint in endpoints):
        return ""
    checks = [endpoint.check[1] for endpoint in endpoints if endpoint.check is not None and not endpoint.ejected]
    return f"every endpoint has failed{f': {checks[0]}' if checks else ''}"


def _doubts(upstream: UpstreamSnapshot) -> list[str]:
    """What is not as it should be, a phrase each."""
    endpoints = upstream.endpoints
    doubts = []
    if upstream.breaker is not None and upstream.breaker.state != "closed":
        doubts.append("the circuit breaker is half-open")
    doubts += [
        f"the circuit breaker of route {breaker.path} is {breaker.state.replace('_', '-')}"
        for breaker in upstream.route_breakers
        if breaker.state != "closed"
    ]
    ejected = sum(1 for endpoint in endpoints if endpoint.ejected and not _is_spare(endpoint, endpoints))
    if ejected:
        doubts.append(f"{ejected} of {counted(len(endpoints), 'endpoint')} {_are(ejected)} ejected")
    unhealthy = sum(1 for endpoint in endpoints if endpoint.state == "unhealthy")
    if unhealthy:
        doubts.append(f"{unhealthy} of {counted(len(endpoints), 'endpoint')} {_are(unhealthy)} unhealthy")
    warning = sum(1 for endpoint in endpoints if endpoint.state == "warning")
    if warning:
        doubts.append(f"{warning} of {counted(len(endpoints), 'endpoint')} {_are(warning)} in the warning state")
    doubts += [f"a fault is injected on purpose: {text}" for text in upstream.faults[:3]]
    doubts += [
        f"the subset {subset.name} is empty: its share goes to the others"
        for subset in upstream.subsets
        if subset.weight and not subset.usable
    ]
    doubts += [f"{name.name} does not resolve: {name.error}" for name in upstream.names if name.error][:3]
    return doubts


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _is_spare(endpoint: EndpointSnapshot, endpoints: Sequence[EndpointSnapshot]) -> bool:
    """Whether it belongs to a family of addresses of its host none of which works, while the other family does:
    ``localhost`` has two, and a server that listens on one of them is well."""
    if not endpoint.hostname:
        return False
    in_use = [":" in e.host for e in endpoints if e.hostname == endpoint.hostname and not e.ejected]
    return bool(in_use) and (":" in endpoint.host) not in in_use


def upstream(now: UpstreamSnapshot) -> dict[str, Any]:
    """Everything about one upstream."""
    return {
        "name": now.name,
        "bind": now.bind,
        "protocol": now.protocol,
        "balancer": now.balancer,
        "health": upstream_health(now)["status"],
        "endpoints": [endpoint_as_dict(endpoint) for endpoint in now.endpoints],
        "subsets": [_subset(subset) for subset in now.subsets],
        "canary": now.canary and {**now.canary, "at": timestamp(now.canary["at"]) if now.canary["at"] else None},
        "names": [_name(name) for name in now.names],
        "breaker": _breaker(now.breaker) if now.breaker is not None else None,
        "route_breakers": [{"path": breaker.path, **_breaker(breaker)} for breaker in now.route_breakers],
        "stats": listener(now.stats),
    }


def listener(stats: ListenerStats) -> dict[str, Any]:
    """What one listener has counted; latencies in milliseconds."""
    codes: dict[str, int] = {}
    for (_, code), n in stats.requests.items():
        label = code_label(code)
        codes[label] = codes.get(label, 0) + n
    queue = stats.queue
    return {
        "requests": codes,
        "active": stats.active,
        "pending": stats.pending,
        "p50_ms": round(stats.duration.quantile(0.5) * 1000, 3),
        "p99_ms": round(stats.duration.quantile(0.99) * 1000, 3),
        "retries": dict(stats.retries),
        "rejected": dict(stats.rejected),
        "connect_failures": dict(stats.connect_failures),
        "peer_errors": dict(stats.peer_errors),
        "queue": None
        if queue is None
        else {"requests": queue.requests, "bytes": queue.bytes, "outcomes": dict(queue.outcomes)},
        "filters": {
            name: shown for name, it in list(stats.filters.items()) if it.view is not None and (shown := _filter(it))
        },
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "connections": {
            "client": stats.client_connections,
            "active": stats.upstream_active,
            "idle": stats.upstream_idle,
            "tunnel": stats.tunnels,
        },
    }


def _filter(it: FilterStats) -> dict[str, Any]:
    failures = {"failures": sum(it.failures.values())} if it.failures else {}
    return {**it.counts, **failures, **(it.view() if it.view is not None else {})}


def _name(name: NameSnapshot) -> dict[str, Any]:
    return {
        "name": name.name,
        "addresses": list(name.addresses),
        "age": None if name.age is None else round(name.age, 3),
        "error": name.error or None,
        "cause": name.cause or None,
    }


def endpoint_as_dict(endpoint: EndpointSnapshot) -> dict[str, Any]:
    """An endpoint, as JSON can hold it."""
    return {
        "address": endpoint.address,
        "hostname": endpoint.hostname or None,
        "id": endpoint.id,
        "weight": endpoint.weight,
        "state": endpoint.state,
        "ejected": endpoint.ejected,
        "ejection": _ejection(endpoint),
        "share": round(endpoint.share, 3),
        "check": _check(endpoint),
        "active": endpoint.active,
        "failures": endpoint.failures,
        "ewma_ms": endpoint.known.get("ewma_ms"),
        "reported": endpoint.known.get("reported"),
        "hash_share": endpoint.known.get("hash_share"),
        "models": endpoint.known.get("models"),
        "subset": endpoint.subset or None,
        "admin": str(Address(endpoint.host, endpoint.admin)) if endpoint.admin else None,
        "last_error": _last_error(endpoint),
    }


def _subset(subset: SubsetSnapshot) -> dict[str, Any]:
    return {
        "name": subset.name,
        "weight": subset.weight,
        "share": round(subset.share, 4),
        "endpoints": subset.endpoints,
        "usable": subset.usable,
        "requests": {code_label(code): n for code, n in subset.requests.items()},
        "p50_ms": round(subset.p50 * 1000, 3),
        "p99_ms": round(subset.p99 * 1000, 3),
    }


def _ejection(endpoint: EndpointSnapshot) -> dict[str, Any] | None:
    it = endpoint.ejection
    return None if it is None else {"reason": it.reason, "text": it.text, "until": timestamp(it.until)}


def _check(endpoint: EndpointSnapshot) -> dict[str, Any] | None:
    if endpoint.check is None:
        return None
    status, output, at, row = endpoint.check
    return {"status": status, "output": output, "at": timestamp(at), "row": row}


def _last_error(endpoint: EndpointSnapshot) -> dict[str, Any] | None:
    if endpoint.last_error is None:
        return None
    at, kind, text = endpoint.last_error
    return {"at": timestamp(at), "kind": kind, "text": text}


def _breaker(breaker: BreakerSnapshot) -> dict[str, Any]:
    return {
        "state": breaker.state,
        "forced": breaker.forced,
        "failures": breaker.failures,
        "open_seconds": round(breaker.open_seconds, 3),
        "retry_after": round(breaker.retry_after, 3),
        "held": None if breaker.held is None else hold_as_dict(breaker.held),
    }


def hold_as_dict(held: Hold) -> dict[str, Any]:
    """An operator's decision about a breaker, likewise."""
    return {
        "by": held.by,
        "reason": held.reason,
        "since": timestamp(held.since),
        "until": timestamp(held.until) if held.until else None,
    }
