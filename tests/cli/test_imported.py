"""What an idle sidecar has in memory: modules that its configuration does not need are not imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

#: Needed by no sidecar that asks neither Consul nor a broker, and whose names are in the hosts file.
LIBRARIES = {
    "aio_pika", "aiohttp", "attr", "calendar", "cffi", "consul", "ctypes", "difflib", "email", "gzip", "html",
    "http.client", "http.server", "idna", "importlib.metadata", "multidict", "multiprocessing", "opentelemetry",
    "pickle", "prometheus_client", "pycares", "requests", "shutil", "sqlite3", "tempfile", "unittest",
    "urllib.request", "wsgiref", "yarl",
}  # fmt: skip
OURS = {
    "sidecar.admin.dashboard.start_page", "sidecar.agent.canary", "sidecar.agent.checklist", "sidecar.config.reference",
    "sidecar.demo", "sidecar.http_queue.queue", "sidecar.net.dns", "sidecar.resilience.canary_judge",
    "sidecar.resilience.rollout",
    "sidecar.registry.consul", "sidecar.registry.directory", "sidecar.storage.sqlite", "sidecar.tcp.relay",
    "sidecar.telemetry.spans", "sidecar.why.causes", "sidecar.why.told",
}  # fmt: skip
#: Needed only for AMQP, and for a spool.
AMQP = {
    "decimal", "sidecar.amqp.listener", "sidecar.amqp.metrics", "sidecar.amqp.relay", "sidecar.amqp.views.dead_letter",
    "sidecar.amqp.views.port", "sidecar.amqp.wire",
}  # fmt: skip
SPOOL = {"sidecar.amqp.failover", "sidecar.amqp.replay", "sidecar.amqp.spool", "sidecar.amqp.store_and_forward"}

PORTS = {
    "http": {"bind": "127.0.0.1:0", "endpoints": ["127.0.0.1:1"]},
    "amqp": {"bind": "127.0.0.1:0", "endpoints": ["127.0.0.1:1"], "protocol": "amqp"},
}


@pytest.mark.parametrize(("protocol", "without"), [("http", AMQP | SPOOL), ("amqp", SPOOL)])
def test_what_nothing_needs_is_not_imported(tmp_path: Path, protocol: str, without: set[str]) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "service": {"name": "a", "app": "127.0.0.1:1"},
                "inbound": {"bind": "127.0.0.1:0"},
                "admin": {"bind": "127.0.0.1:0"},
                "upstreams": {"b": PORTS[protocol]},
            }
        )
    )
    found = imported(file)
    assert {"sidecar.agent.lifecycle", "sidecar.admin.server"} <= found
    assert found & (LIBRARIES | OURS | without) == set()


def imported(file: Path) -> set[str]:
    """What a sidecar with this configuration has imported when it is ready and stops again."""
    command = [sys.executable, "-X", "importtime", "-m", "sidecar", "run", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_"))}
    found = set()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("import time:"):
                found.add(line.rpartition("|")[2].strip())
            elif '"msg":"ready"' in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    return found
