"""A configuration for HAProxy (2.4 and later) as the gateway: the same routes, limits and checks as for Kong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.cli.export.kong import address
from sidecar.cli.export.mesh import Mesh
from sidecar.cli.export.table import RouteSettings, health, limit

#: Instances of a service that there is room for when they are found by DNS.
SLOTS: Final = 20
#: Its weights end there.
_MOST_WEIGHT: Final = 256

_HEAD: Final = """\
# Written by `sidecar export haproxy`; changes by hand are lost.
global
    log stdout format raw local0

defaults
    mode http
    log global
    option httplog
    timeout connect 1s
    timeout client 10m
    timeout http-request 10s
    timeout queue 5s
    # Sidecars retry.
    retries 0
"""


def render(mesh: Mesh) -> str:
    """The file."""
    blocks = [_HEAD]
    if mesh.instances is None:
        blocks.append(_resolvers(mesh.table.consul_dns))
    named = [(f"r{number}", route) for number, route in enumerate(mesh.routes, 1)]
    blocks.append("\n".join(_frontend(named)) + "\n")
    blocks += [_table(name, route.rate_limit) for name, route in named if route.rate_limit]
    blocks += [_backend(service, routes, mesh) for service, routes in mesh.services.items()]
    return "\n".join(blocks)


def _resolvers(dns: str) -> str:
    return f"""\
resolvers consul
    nameserver consul {dns}
    accepted_payload_size 8192
    hold valid 5s
    hold obsolete 10s
"""


def _frontend(named: Sequence[tuple[str, RouteSettings]]) -> Iterator[str]:
    """The first route that matches is remembered, before anything is changed."""
    yield "frontend gateway"
    yield "    bind :8000"
    yield "    option forwardfor"
    for name, route in named:
        methods = f" {{ method {' '.join(sorted(route.methods))} }}" if route.methods else ""
        yield (
            f"    http-request set-var(txn.route) str({name}) if !{{ var(txn.route) -m found }} "
            f"{{ path_beg {route.path} }}{methods}"
        )
    yield "    http-request deny deny_status 404 if !{ var(txn.route) -m found }"
    for name, route in named:
        mine = f"{{ var(txn.route) -m str {name} }}"
        if route.rate_limit:
            yield f"    http-request track-sc0 src table limit_{name} if {mine}"
            most = limit(route.rate_limit)[0]
            yield f"    http-request deny deny_status 429 if {mine} {{ sc0_http_req_rate gt {most} }}"
        if route.strip:
            yield f"    http-request replace-path ^{_escaped(route.path.rstrip('/'))}/?(.*) /\\1 if {mine}"
    for name, route in named:
        yield f"    use_backend {route.service} if {{ var(txn.route) -m str {name} }}"


def _escaped(path: str) -> str:
    """For a regular expression; of what a path may have, two characters mean something there."""
    return path.replace(".", "\\.").replace("+", "\\+")


def _table(name: str, rate: float) -> str:
    seconds = limit(rate)[1]
    return (
        f"backend limit_{name}\n    stick-table type ipv6 size 100k expire {2 * seconds}s "
        f"store http_req_rate({seconds}s)\n"
    )


def _backend(service: str, routes: Sequence[RouteSettings], mesh: Mesh) -> str:
    silence = math.ceil(max(route.timeout for route in routes) * 1000)
    lines = [
        f"backend {service}",
        "    balance roundrobin",
        f"    timeout server {silence}ms",
        f"    timeout tunnel {max(silence, 3600000)}ms",
        "    option httpchk",
        f"    http-check send meth GET uri {health(routes)} hdr Host {service}",
        # 503 is what a sidecar says that has enough to do; it is not dead.
        "    http-check expect ! rstatus ^50[024]",
        "    default-server check inter 5s fall 2 rise 1",
    ]
    if mesh.instances is None:
        lines.append(
            f"    server-template {service} {SLOTS} _{service}._tcp.service.{mesh.table.domain} "
            "resolvers consul resolve-prefer ipv4 init-addr none"
        )
    for number, it in enumerate((mesh.instances or {}).get(service, ()), 1):
        lines.append(f"    server {service}-{number} {address(it)} weight {min(max(it.weight, 0), _MOST_WEIGHT)}")
    return "\n".join(lines) + "\n"
