"""A declarative configuration for Kong without a database (format 3.0; Kong 3.9, the last open release).

Kong only chooses the way in: its own retries are off, because sidecars retry; instances are asked for by DNS, so that
the file changes only with the set of services. What differs from Kong's defaults is said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sidecar.cli.export.mesh import Mesh
from sidecar.cli.export.table import RouteSettings, health, limit
from sidecar.core.instance import Instance

#: On everything that is written here, for those who look at Kong's admin API.
TAG: Final = "sidecar"
#: Milliseconds; its default of a minute would hold clients that long where nobody listens.
_CONNECT: Final = 1000

_HEAD: Final = """\
# Written by `sidecar export kong`; changes by hand are lost. For Kong 3.9 without a database:
#   KONG_DATABASE=off KONG_DECLARATIVE_CONFIG=/etc/kong/kong.yml
"""
_DNS: Final = """\
# Instances are found by Consul's DNS, of which SRV records have the ports; Kong takes its address, and no name:
#   KONG_DNS_RESOLVER={dns} KONG_DNS_ORDER=LAST,SRV,A,CNAME
"""


def render(mesh: Mesh) -> str:
    """The file."""
    import yaml

    head = _HEAD if mesh.instances is not None else _HEAD + _DNS.format(dns=mesh.table.consul_dns)
    return head + yaml.safe_dump(document(mesh), sort_keys=False, width=120)


def document(mesh: Mesh) -> dict[str, Any]:
    """The file as plain data."""
    services = mesh.services
    return {
        "_format_version": "3.0",
        "services": [_service(name, routes) for name, routes in services.items()],
        "upstreams": [
            _upstream(name, health(routes), _targets(name, mesh)) for name, routes in services.items()
        ],
        "plugins": _plugins(mesh.table.otlp),
    }  # fmt: skip


def _host(service: str) -> str:
    """The name of its upstream, which has to look like that of a host, without a port."""
    return f"{service}.mesh"


def _service(name: str, routes: Sequence[RouteSettings]) -> dict[str, Any]:
    silence = round(max(route.timeout for route in routes) * 1000)
    return {
        "name": name,
        "host": _host(name),
        "port": 80,
        "protocol": "http",
        "retries": 0,  # default 5: with the sidecars' own that would be up to fifteen tries
        "connect_timeout": _CONNECT,
        "read_timeout": silence,
        "write_timeout": silence,
        "tags": [TAG],
        "routes": [_route(name, route) for route in routes],
    }


def _route(service: str, route: RouteSettings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": f"{service}{_name(route)}",
        "paths": [route.path],  # a prefix, not a pattern
        "protocols": ["http", "https"],
        "strip_path": route.strip,  # default true
        "preserve_host": True,
        "request_buffering": not route.stream,
        "response_buffering": not route.stream,
        "tags": [TAG],
    }
    if route.methods:
        found["methods"] = sorted(route.methods)
    if route.rate_limit:
        found["plugins"] = [_limit(route.rate_limit)]
    return found


def _name(route: RouteSettings) -> str:
    """A route's part of its name: letters, digits and - . _ ~ are allowed there."""
    path = "".join(c if c.isalnum() else "-" for c in route.path.rstrip("/"))
    return path + "".join(f"-{method}" for method in sorted(route.methods))


def _limit(rate: float) -> dict[str, Any]:
    count, seconds = limit(rate)
    unit = {1: "second", 60: "minute", 3600: "hour"}[seconds]
    return {
        "name": "rate-limiting",
        "config": {unit: count, "policy": "local", "limit_by": "ip", "fault_tolerant": True},
    }  # fmt: skip


def _targets(service: str, mesh: Mesh) -> list[dict[str, Any]]:
    if mesh.instances is None:
        return [{"target": f"{service}.service.{mesh.table.domain}", "tags": [TAG]}]
    return [
        {"target": address(it), "weight": min(it.weight, 65535), "tags": [TAG]}
        for it in mesh.instances.get(service, ())
    ]


def address(instance: Instance) -> str:
    """``host:port``, an IPv6 address in brackets."""
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return f"{host}:{instance.port}"


def _upstream(service: str, health: str, targets: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": _host(service),
        "algorithm": "round-robin",
        "healthchecks": {
            "active": {
                "type": "http",
                "http_path": health,
                "timeout": 2,
                # default 0: it never asks. 503 is what a sidecar says that has enough to do; it is not dead.
                "healthy": {"interval": 5, "successes": 1},
                "unhealthy": {
                    "interval": 5, "tcp_failures": 2, "timeouts": 2,
                    "http_failures": 3, "http_statuses": [500, 502, 504],
                },
            },
            "passive": {
                "type": "http",
                # What it takes out by itself only an active check brings back.
                "unhealthy": {"tcp_failures": 2, "timeouts": 3, "http_failures": 0},
            },
        },
        "targets": targets,
        "tags": [TAG],
    }  # fmt: skip


def _plugins(otlp: str) -> list[dict[str, Any]]:
    metrics = ("status_code_metrics", "latency_metrics", "bandwidth_metrics", "upstream_health_metrics")
    found: list[dict[str, Any]] = [{"name": "prometheus", "config": dict.fromkeys(metrics, True)}]  # defaults: off
    if otlp:
        # Kong makes spans only with KONG_TRACING_INSTRUMENTATIONS=all KONG_TRACING_SAMPLING_RATE=1.0
        propagation = {"extract": ["w3c"], "inject": ["w3c"], "default_format": "w3c"}
        endpoint = otlp if otlp.endswith("/v1/traces") else f"{otlp.rstrip('/')}/v1/traces"
        config = {"traces_endpoint": endpoint, "resource_attributes": {"service.name": "kong"}}
        found.append({"name": "opentelemetry", "config": config | {"propagation": propagation}})
    return found
