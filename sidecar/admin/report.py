"""What the admin API says, as plain data: made from a running sidecar, without any HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sidecar.admin.view import Running, UpstreamView
    from sidecar.resilience.breaker import CircuitBreaker
    from sidecar.telemetry.stats import ListenerStats
    from sidecar.upstreams.endpoint import Endpoint

_BREAKER: Final = ("closed", "half_open", "open")


def health(running: Running) -> dict[str, Any]:
    """The workload's own health. ``unhealthy`` only if the app is: an upstream that is down, or whose breaker is open,
    is a warning, because restarting this workload would not mend it."""
    app = running.app_health()
    upstreams = {name: upstream_health(upstream) for name, upstream in running.upstreams.items()}
    status = app.status
    if status == "healthy" and any(found["status"] != "healthy" for found in upstreams.values()):
        status = "warning"
    return {
        "status": status,
        "service": running.config.service.name,
        "id": running.config.service.id,
        "phase": running.phase,
        "app": {"status": app.status, "output": app.output},
        "upstreams": upstreams,
    }


def upstream_health(upstream: UpstreamView) -> dict[str, Any]:
    """From what traffic and the registry have shown, without asking anybody."""
    endpoints = upstream.endpoints
    if not endpoints:
        return {"status": "unhealthy", "output": "no endpoints are known"}
    states = [breaker.state for breaker in upstream.breakers]
    if states and states[0] == 2:
        return {"status": "unhealthy", "output": "the circuit breaker is open"}
    ejected = sum(1 for endpoint in endpoints if endpoint.ejected_until)
    if ejected == len(endpoints):
        return {"status": "unhealthy", "output": "every endpoint has failed"}
    if ejected or any(states) or any(endpoint.state == "warning" for endpoint in endpoints):
        return {"status": "warning", "output": f"{ejected} of {len(endpoints)} endpoints are ejected"}
    return {"status": "healthy", "output": f"{len(endpoints)} endpoints"}


def upstream(view: UpstreamView) -> dict[str, Any]:
    """Everything about one upstream."""
    config = view.config
    return {
        "name": config.name,
        "bind": str(config.bind),
        "protocol": config.protocol,
        "balancer": config.balancer,
        "health": upstream_health(view)["status"],
        "endpoints": [_endpoint(endpoint) for endpoint in view.endpoints],
        "breaker": _breaker(view.breakers[0]) if view.breakers else None,
        "route_breakers": [_breaker(breaker) for breaker in view.breakers[1:]],
        "stats": listener(view.stats),
    }


def listener(stats: ListenerStats) -> dict[str, Any]:
    """What one listener has counted; latencies in milliseconds."""
    codes: dict[str, int] = {}
    for (_, code), n in list(stats.requests.items()):
        codes[str(code)] = codes.get(str(code), 0) + n
    return {
        "requests": codes,
        "active": stats.active,
        "pending": stats.pending,
        "p50_ms": round(stats.duration.quantile(0.5) * 1000, 3),
        "p99_ms": round(stats.duration.quantile(0.99) * 1000, 3),
        "retries": dict(stats.retries),
        "rejected": dict(stats.rejected),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "connections": {
            "client": stats.client_connections,
            "active": stats.upstream_active,
            "idle": stats.upstream_idle,
            "tunnel": stats.tunnels,
        },
    }


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "address": endpoint.address,
        "id": endpoint.id,
        "weight": endpoint.weight,
        "state": endpoint.state,
        "ejected": bool(endpoint.ejected_until),
        "active": endpoint.active,
        "failures": endpoint.failures,
    }


def _breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    return {
        "state": _BREAKER[breaker.state],
        "forced": breaker.forced,
        "failures": breaker.failures,
        "open_seconds": round(breaker.open_seconds(), 3),
        "retry_after": round(breaker.retry_after(), 3),
    }
