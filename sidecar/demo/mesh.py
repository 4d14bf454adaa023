"""The processes of the demo: five services with a sidecar each, found through a registry in a folder.

    clients → web → tasks (three instances)
                  → model (one instance)

Each arrow passes the sidecar of its source and the sidecar of its target. Everything listens on 127.0.0.1, and what is
written is written into one temporary folder.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from sidecar.demo.ports import free_ports

INSTANCES = ("tasks-1", "tasks-2", "tasks-3")
#: Seconds from open to half-open for the model's breaker: short, for the sake of the audience.
RESET_TIMEOUT = 3.0
#: Seconds that everything may take to start, and to drain.
START = 60.0
DRAIN = 3.0


class MeshError(Exception):
    """A process did not start or has ended by itself; the text says which, and the end of its log."""


class Process:
    """A child process with its log. It has a session of its own, so that the terminal's Ctrl-C passes it by: the demo
    ends its processes in order."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.arguments = [sys.executable, "-m", *arguments]
        self.log = log
        self._popen: subprocess.Popen[bytes] | None = None
        #: It is meant to be running.
        self.wanted = False

    @property
    def pid(self) -> int:
        """Return its process id; 0 before the first start."""
        return self._popen.pid if self._popen else 0

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it, for the first time or again."""
        self.wanted = True
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: int) -> None:
        if self.running and self._popen is not None:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """Kill it, and collect its exit code."""
        self.wanted = False
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-5:])


class Workload:
    """A service and its sidecar."""

    def __init__(self, folder: Path, kind: str, name: str, check: dict[str, str], **upstreams: dict[str, Any]) -> None:
        self.kind = kind
        self.name = name
        self.app_port, self.port, self.admin_port, *dialled = free_ports(3 + len(upstreams))
        self.config = folder / f"{name}.yaml"
        content = {
            "service": {
                "name": kind,
                "id": name,
                "address": "127.0.0.1",
                "app": f"127.0.0.1:{self.app_port}",
                "check": check,
            },
            "registry": f"directory://{folder}/registry",
            "inbound": {"bind": f"127.0.0.1:{self.port}"},
            "upstreams": {
                upstream: {"bind": f"127.0.0.1:{port}", **policies}
                for (upstream, policies), port in zip(upstreams.items(), dialled, strict=True)
            },
            "admin": {"bind": f"127.0.0.1:{self.admin_port}"},
            "drain": {"timeout": f"{DRAIN:g}s"},
        }
        self.config.write_text(yaml.safe_dump(content, sort_keys=False))
        dials = [f"{upstream}={port}" for upstream, port in zip(upstreams, dialled, strict=True)]
        self.app = Process(
            name, ["sidecar.demo.service", kind, name, str(self.app_port), *dials], folder / f"{name}.app.log"
        )
        self.sidecar = Process(
            f"sidecar of {name}", ["sidecar", "run", str(self.config)], folder / f"{name}.sidecar.log"
        )

    @property
    def url(self) -> str:
        """Return the URL at which others reach it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """Return the URL of its sidecar's admin API."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def processes(self) -> tuple[Process, Process]:
        return self.app, self.sidecar

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def kill(self) -> None:
        """Kill both at once, as when their host dies."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.kill()


class Mesh:
    """All workloads; ``folder`` is where their files go."""

    def __init__(self, folder: Path) -> None:
        check = {"http": "/health", "interval": "1s"}
        # The model is checked rarely: a quick check would take it out of the registry before the breaker can be seen.
        rarely = {"http": "/health", "interval": "5m"}
        tasks = {"retry": {"max_attempts": 3, "initial_delay": "20ms", "max_delay": "200ms"}}
        model = {
            "balancer": "least_connections",
            "circuit_breaker": {
                "failure_threshold": 5,
                "timeout_duration": "5s",
                "reset_timeout": f"{RESET_TIMEOUT:g}s",
                "half_open_requests": 3,
            },
            "retry": "off",  # what takes a model seconds should not be asked for twice
        }
        self.folder = folder
        self.web = Workload(folder, "web", "web", check, tasks=tasks, model=model)
        self.model = Workload(folder, "model", "model", rarely)
        self.tasks = {name: Workload(folder, "tasks", name, check) for name in INSTANCES}
        #: The ones that others find first.
        self.workloads = (*self.tasks.values(), self.model, self.web)

    def start(self) -> None:
        for workload in self.workloads:
            workload.start()

    def ended(self) -> list[Process]:
        """Return the processes that have ended by themselves."""
        found = [process for workload in self.workloads for process in workload.processes]
        return [process for process in found if process.wanted and not process.running]

    def check_alive(self) -> None:
        """Raise :class:`MeshError` if a process has ended by itself."""
        for process in self.ended():
            raise MeshError(f"{process.name} has ended by itself; the end of its log:\n{process.last_words()}")

    async def stop(self) -> None:
        """Drain the sidecars, then end everything that is left, by its process id."""
        sidecars = [workload.sidecar for workload in self.workloads]
        for process in sidecars:
            process.signal(signal.SIGTERM)
        try:
            for _ in range(int((DRAIN + 2) / 0.05)):
                if not any(process.running for process in sidecars):
                    break
                await asyncio.sleep(0.05)
        finally:
            for workload in self.workloads:
                workload.kill()
