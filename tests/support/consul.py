"""A real Consul agent for tests: ``consul agent -dev`` on ports of its own, in memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from support.processes import ROOT, free_port, missing

#: The management token of an agent with ACLs.
MANAGEMENT_TOKEN = "5ca1ab1e-0000-4000-8000-000000000001"


def binary() -> str:
    """The consul binary: ``$SIDECAR_CONSUL``, what ``scripts/ensure-consul`` fetched, or the one on PATH.

    Without one the test is skipped, in CI it fails: there nothing may be left out silently.
    """
    cached = ROOT / ".cache" / "consul" / "consul"
    for candidate in (os.environ.get("SIDECAR_CONSUL"), str(cached), shutil.which("consul")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    missing("there is no consul binary: run scripts/ensure-consul, or name one in SIDECAR_CONSUL")


class ConsulAgent:
    """An agent that is its own cluster; its data dies with its process. ``acl``: enabled, everything denied by
    default, :data:`MANAGEMENT_TOKEN` may do everything."""

    def __init__(self, *, acl: bool = False) -> None:
        self._binary = binary()
        self._acl = acl
        self._folder = Path(tempfile.mkdtemp(prefix="consul-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.http_port = free_port()
        self.node = "test"

    def __enter__(self) -> ConsulAgent:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the agent is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, with nothing in its catalog, on the same HTTP port as before; returns once it has a leader."""
        for _ in range(5):  # a port may be taken between choosing and binding it
            if self._launch():
                return
            time.sleep(0.2)
        raise AssertionError(f"consul does not start:\n{self.output()}")

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self.thaw()
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def terminate(self) -> None:
        """SIGTERM, and wait."""
        assert self._process is not None, "the agent is not running"
        self._process.terminate()
        self._process.wait(60)
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and are accepted, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen agent go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def output(self) -> str:
        """What the agent logged."""
        log = self._folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def request(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """Call the agent's HTTP API and return the parsed answer (None: it was empty). Raises OSError."""
        headers = {"X-Consul-Token": token or (MANAGEMENT_TOKEN if self._acl else "")}
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def register(self, service: str, id: str, port: int, **more: Any) -> None:
        """Register an instance without a check, at 127.0.0.1 unless ``Address`` says otherwise."""
        body = {"Name": service, "ID": id, "Address": "127.0.0.1", "Port": port, **more}
        self.request("PUT", "/v1/agent/service/register", body)

    def deregister(self, id: str) -> None:
        self.request("PUT", f"/v1/agent/service/deregister/{id}")

    def services(self) -> dict[str, Any]:
        """The agent's own services by id."""
        found: dict[str, Any] = self.request("GET", "/v1/agent/services")
        return found

    def check(self, id: str) -> dict[str, Any] | None:
        """The check of the service with this id as the agent has it."""
        checks: dict[str, dict[str, Any]] = self.request("GET", "/v1/agent/checks")
        return next((check for check in checks.values() if check["ServiceID"] == id), None)

    def instances(self, service: str) -> set[str]:
        """Ids of a service's passing instances; none while the agent does not answer."""
        try:
            return {entry["Service"]["ID"] for entry in self.request("GET", f"/v1/health/service/{service}?passing")}
        except OSError:
            return set()

    def token(self, rules: str) -> str:
        """A new token with a policy of its own (an agent with ACLs)."""
        name = f"test-{time.monotonic_ns()}"
        self.request("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        secret: str = self.request("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"]
        return secret

    def _configuration(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "ports": {
                "http": self.http_port, "server": free_port(), "serf_lan": free_port(),
                "serf_wan": -1, "dns": -1, "grpc": -1,
            },
            "bind_addr": "127.0.0.1",
            "node_name": self.node,
            "disable_update_check": True,
        }  # fmt: skip
        if self._acl:
            config["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": MANAGEMENT_TOKEN, "agent": MANAGEMENT_TOKEN},
            }
        return config

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        file = self._folder / "agent.json"
        file.write_text(json.dumps(self._configuration()))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "agent", *arguments, "-config-file", str(file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder,
            )  # fmt: skip
        return self._process

    def _launch(self) -> bool:
        process = self._spawn("-dev")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if self._ready():
                return True
            time.sleep(0.02)
        self.kill()
        return False

    def _ready(self) -> bool:
        """It has a leader, and its own node is in the catalog (so it can take registrations)."""
        try:
            return bool(self.request("GET", f"/v1/catalog/node/{self.node}"))
        except (OSError, ValueError):
            return False
