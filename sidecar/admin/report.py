"""What the admin API says, as plain data: made from a running sidecar, without any HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.amqp.views import port as amqp
from sidecar.config import model
from sidecar.core.stats import code_label
from sidecar.core.text import counted
from sidecar.resilience.breaker import CLOSED, OPEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.admin.view import Running, UpstreamView
    from sidecar.core.stats import FilterStats, ListenerStats
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.endpoints.names import Name
    from sidecar.resilience.breaker import CircuitBreaker

_BREAKER: Final = ("closed", "half_open", "open")


def health(running: Running) -> dict[str, Any]:
    """The workload's own health. ``unhealthy`` only if the app is: an upstream that is down, or whose breaker is open,
    is a warning, and so is a registry that is away, because restarting this workload would not mend them."""
    app = running.app_health()
    upstreams = {name: upstream_health(upstream) for name, upstream in running.upstreams.items()}
    registry = running.registry
    status = app.status
    if status == "healthy" and running.waiting_for:
        status = "warning"
    away = registry is not None and not registry.up
    if status == "healthy" and (away or any(found["status"] != "healthy" for found in upstreams.values())):
        status = "warning"
    return {
        "status": status,
        "service": running.config.service.name,
        "id": running.config.service.id,
        "phase": running.phase,
        "waiting_for": running.waiting_for or None,
        "app": {"status": app.status, "output": app.output},
        "upstreams": upstreams,
        "registry": None
        if registry is None
        else {"url": str(running.config.registry), "up": registry.up, "age": round(registry.age, 3)},
    }


def upstream_health(upstream: UpstreamView) -> dict[str, Any]:
    """From what traffic and the registry have shown, without asking anybody."""
    messages = [] if upstream.amqp is None else amqp.doubts(upstream.amqp)
    if broken := _broken(upstream):
        return {"status": "unhealthy", "output": "; ".join([broken, *messages])}
    doubts = _doubts(upstream) + messages
    if doubts:
        return {"status": "warning", "output": "; ".join(doubts)}
    return {"status": "healthy", "output": counted(len(upstream.endpoints), "endpoint")}


def _broken(upstream: UpstreamView) -> str:
    """Why nothing gets through; empty when something may."""
    endpoints = upstream.endpoints
    if not endpoints:
        return f"no endpoints are known{f': {upstream.problem}' if upstream.problem else ''}"
    own, _ = _breakers(upstream)
    if own is not None and own.state == OPEN:
        return "the circuit breaker is open"
    if upstream.amqp is not None and "no_broker" in upstream.amqp.refusing:
        return "there is no broker"
    return "every endpoint has failed" if all(endpoint.ejected_until for endpoint in endpoints) else ""


def _doubts(upstream: UpstreamView) -> list[str]:
    """What is not as it should be, a phrase each."""
    endpoints = upstream.endpoints
    own, of_routes = _breakers(upstream)
    doubts = []
    if own is not None and own.state != CLOSED:
        doubts.append("the circuit breaker is half-open")
    doubts += [
        f"the circuit breaker of route {path} is {_BREAKER[breaker.state].replace('_', '-')}"
        for path, breaker in of_routes
        if breaker.state != CLOSED
    ]
    ejected = sum(1 for endpoint in endpoints if endpoint.ejected_until and not _is_spare(endpoint, endpoints))
    if ejected:
        doubts.append(f"{ejected} of {counted(len(endpoints), 'endpoint')} {_are(ejected)} ejected")
    warning = sum(1 for endpoint in endpoints if endpoint.state == "warning")
    if warning:
        doubts.append(f"{warning} of {counted(len(endpoints), 'endpoint')} {_are(warning)} in the warning state")
    doubts += [f"{name.name} does not resolve: {name.error}" for name in upstream.names if name.error][:3]
    return doubts


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _is_spare(endpoint: Endpoint, endpoints: Sequence[Endpoint]) -> bool:
    """Whether it belongs to a family of addresses of its host none of which works, while the other family does:
    ``localhost`` has two, and a server that listens on one of them is well."""
    if not endpoint.hostname:
        return False
    in_use = [":" in e.host for e in endpoints if e.hostname == endpoint.hostname and not e.ejected_until]
    return bool(in_use) and (":" in endpoint.host) not in in_use


def upstream(view: UpstreamView) -> dict[str, Any]:
    """Everything about one upstream."""
    config = view.config
    own, of_routes = _breakers(view)
    return {
        "name": config.name,
        "bind": str(config.bind),
        "protocol": config.protocol,
        "balancer": config.balancer,
        "health": upstream_health(view)["status"],
        "endpoints": [_endpoint(endpoint) for endpoint in view.endpoints],
        "names": [_name(name) for name in view.names],
        "breaker": _breaker(own) if own else None,
        "route_breakers": [{"path": path, **_breaker(breaker)} for path, breaker in of_routes],
        "stats": listener(view.stats),
    }


def listener(stats: ListenerStats) -> dict[str, Any]:
    """What one listener has counted; latencies in milliseconds."""
    codes: dict[str, int] = {}
    for (_, code), n in list(stats.requests.items()):
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
        "queue": None
        if queue is None
        else {"requests": queue.requests, "bytes": queue.bytes, "outcomes": dict(queue.outcomes)},
        "filters": {name: _filter(it) for name, it in list(stats.filters.items()) if it.view is not None},
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


def _name(name: Name) -> dict[str, Any]:
    age = name.age
    return {
        "name": name.name,
        "addresses": list(name.addresses),
        "age": None if age is None else round(age, 3),
        "error": name.error or None,
    }


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "address": endpoint.address,
        "hostname": endpoint.hostname or None,
        "id": endpoint.id,
        "weight": endpoint.weight,
        "state": endpoint.state,
        "ejected": bool(endpoint.ejected_until),
        "active": endpoint.active,
        "failures": endpoint.failures,
    }


def _breakers(view: UpstreamView) -> tuple[CircuitBreaker | None, list[tuple[str, CircuitBreaker]]]:
    """The upstream's own, and those of routes that have one, with their route's path."""
    breakers = list(view.breakers)
    own = breakers.pop(0) if breakers and view.config.circuit_breaker is not None else None
    routes = [r for r in view.config.routes if isinstance(r.circuit_breaker, model.CircuitBreaker)]
    return own, [(route.match.path, breaker) for route, breaker in zip(routes, breakers, strict=False)]


def _breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    return {
        "state": _BREAKER[breaker.state],
        "forced": breaker.forced,
        "failures": breaker.failures,
        "open_seconds": round(breaker.open_seconds(), 3),
        "retry_after": round(breaker.retry_after(), 3),
    }
