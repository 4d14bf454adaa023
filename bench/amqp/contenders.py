"""The ways to the broker, each configured with the duties it can take on.

The sidecar understands the protocol: a limit for what is published (so high that it never bites), a ``traceparent`` in
each message that brings none, bounded prefetch, counters by exchange, besides what the others do, too: connect
retries, breaker or outlier detection, connection rate limit. Nobody samples a trace.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.amqp.cases import EXCHANGE, PREFETCH
from bench.contenders import RATE, Contender
from bench.processes import ROOT, BenchError, Child
from sidecar.demo.ports import free_ports


def direct(broker: int, folder: Path, core: int) -> Contender:
    """Nothing in between."""
    return Contender("direct", 0, broker, None)


def traced(broker: int, folder: Path, core: int) -> Contender:
    """Nothing in between either, but the client itself puts a trace context into each message. The broker needs more
    for such a message: what the sidecar passes on has to be compared with this."""
    return Contender("traced", 0, broker, None)


def sidecar(broker: int, folder: Path, core: int) -> Contender:
    """Ours as it goes into the image: with its hot path compiled."""
    return _sidecar("sidecar", [compiled()], broker, folder, core, _AMQP)


def interpreted(broker: int, folder: Path, core: int) -> Contender:
    """Ours from the same source, not compiled."""
    return _sidecar("interpreted", [sys.executable, "-m", "sidecar"], broker, folder, core, _AMQP)


def relay(broker: int, folder: Path, core: int) -> Contender:
    """Ours, compiled, on a port that only passes bytes on: what understanding the protocol adds to."""
    return _sidecar("relay", [compiled()], broker, folder, core, {"protocol": "tcp"})


def compiled() -> Path:
    """The command of the compiled build. Raises :class:`BenchError` when there is none."""
    program = ROOT / ".venv-compiled" / "bin" / "sidecar"
    if not program.exists():
        raise BenchError("there is no compiled sidecar here: make compiled, or leave it out with --only")
    return program


_AMQP: Final[dict[str, Any]] = {
    "protocol": "amqp",
    "amqp": {
        "publish": [{"exchange": EXCHANGE, "routing_key": f"{EXCHANGE}.#", "rate": f"{RATE}/s", "burst": RATE}],
        "prefetch": {"default": PREFETCH // 2, "max": 2 * PREFETCH},
    },
}


def _sidecar(
    name: str, command: list[str | Path], broker: int, folder: Path, core: int, protocol: dict[str, Any]
) -> Contender:
    port, admin = free_ports(2)
    config = {
        "service": {"name": "bench"},
        "registry": "none",
        "upstreams": {
            "rabbitmq": {
                "bind": f"127.0.0.1:{port}",
                "endpoints": [f"127.0.0.1:{broker}"],
                "bulkhead": {"max_connections": 1024, "max_requests": 1024, "max_pending": 1024},
                "rate_limit": {"rate": f"{RATE}/s", "burst": RATE},
                **protocol,
            },
        },
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "tracing": {"sample": 0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return Contender(name, 0, port, Child(name, [*command, "run", path], core, folder / f"{name}.log"))


_HAPROXY: Final = """
global
    nbthread 1
    maxconn 8192

defaults
    timeout connect 1s
    timeout client 300s
    timeout server 300s
    retries 2
    option redispatch

frontend amqp
    mode tcp
    bind 127.0.0.1:{port}
    tcp-request connection track-sc0 int(1) table rate
    tcp-request connection reject if {{ sc_conn_rate(0,rate) gt {rate} }}
    default_backend amqp

backend amqp
    mode tcp
    server broker 127.0.0.1:{broker} check inter 10s observe layer4 error-limit 5 on-error mark-down maxconn 1024

backend rate
    stick-table type integer size 16 expire 10s store conn_rate(1s)
"""


def haproxy(broker: int, folder: Path, core: int) -> Contender:
    """HAProxy in TCP mode, with one thread: it sees bytes, no messages."""
    (port,) = free_ports(1)
    path = folder / "haproxy.cfg"
    path.write_text(_HAPROXY.format(port=port, broker=broker, rate=RATE))
    command: list[str | Path] = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", path]
    return Contender("haproxy", 0, port, Child("haproxy", command, core, folder / "haproxy.log"))


#: In the order of the report; each takes the broker's port, a folder and a core.
CONTENDERS: Final[dict[str, Callable[[int, Path, int], Contender]]] = {
    "sidecar": sidecar,
    "interpreted": interpreted,
    "relay": relay,
    "haproxy": haproxy,
    "direct": direct,
    "traced": traced,
}
