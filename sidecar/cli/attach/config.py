"""The sidecar's configuration, made from what a compose file says of a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.cli.attach.compose_file import Dependency, Service, spoken

#: Where a sidecar registers and looks for others unless it is told.
REGISTRY: Final = "consul://consul:8500"
#: Where the sidecar takes what comes for the app, and where machines ask it how it is.
INBOUND: Final = 10080
PROBES: Final = 15020
ADMIN: Final = 15000


def local_ports(service: Service) -> dict[str, int]:
    """The port on which the app dials each dependency: its own, unless something else of this namespace has it."""
    taken = {service.port, INBOUND, PROBES, ADMIN}
    found: dict[str, int] = {}
    for it in service.dependencies:
        port = it.port
        while port in taken:
            port += 10_000 if port < 50_000 else -1
        taken.add(port)
        found[it.service] = port
    return found


def configuration(service: Service, registry: str) -> str:
    """The file, with a word on each choice that was made. What has no sidecar of its own is dialled by its name: the
    registry does not know it. ``registry`` is empty where there is none."""
    lines = [f"# The sidecar of {service.name}. `sidecar check` this file; `sidecar schema --text` explains every key."]
    lines += ["service:", f"  name: {service.name}"]
    if service.port:
        lines.append(f"  app: 127.0.0.1:{service.port}")
        check = f"http: {service.health}" if service.health else "tcp: true"
        lines.append(f"  check: {{{check}, interval: 10s}}")
    lines += ["", f"registry: {registry or 'none'}"]
    if registry.startswith("consul://"):
        lines.append('consul: {token: "${CONSUL_HTTP_TOKEN:-}"}')
    lines += ["", f"probes: {{bind: 0.0.0.0:{PROBES}}} # health and metrics, for machines"]
    if service.port:
        lines += ["", "inbound:", f"  bind: 0.0.0.0:{INBOUND}"]
        lines += [] if spoken_there(service) == "http" else [f"  protocol: {spoken_there(service)}"]
    if service.dependencies:
        lines += ["", "upstreams:"]
        ports = local_ports(service)
        for it in service.dependencies:
            lines += _upstream(it, ports[it.service], registry)
    return "\n".join(lines) + "\n"


def remarks(service: Service, compose: str, registry: str) -> Iterator[str]:
    """What was guessed or left out, in a line each. ``compose`` is the file's name, ``registry`` what was asked for
    (empty: nothing, so it is the default)."""
    if not registry and "consul" not in service.others:
        yield (
            f"the registry is {REGISTRY}, by default, and {compose} has no service consul: say --registry URL or "
            "--registry none, or add one"
        )
    if not service.port:
        yield (
            f"{service.name} has neither ports nor expose, so it gets no app and no inbound: if it serves something, "
            'write expose: ["PORT"] and ask again'
        )
    if service.env_files:
        yield (
            f"addresses in env_file ({', '.join(service.env_files)}) are not read: write those that {service.name} "
            "dials to environment and ask again, or add their upstreams yourself"
        )


def spoken_there(service: Service) -> str:
    """What the app speaks. A sidecar has no AMQP port for those who come in: a broker needs none."""
    return "http" if spoken(service.port) == "http" else "tcp"


def _upstream(it: Dependency, port: int, registry: str) -> Iterator[str]:
    yield f"  {it.service}:"
    yield f"    bind: 127.0.0.1:{port}"
    if it.spoken != "http":
        yield f"    protocol: {it.spoken}"
    if registry and it.attached:
        yield f"    discover: {{service: {it.service}}}"
    else:
        later = f" # or discover: {{service: {it.service}}}, once the registry knows it" if registry else ""
        yield f'    endpoints: ["{it.service}:{it.port}"]{later}'
