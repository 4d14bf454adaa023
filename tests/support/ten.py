"""A mesh of ten services with a sidecar each, in which faults can be staged."""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from support.patience import PATIENCE
from support.processes import Process, Sidecar, ending, free_port, get, wait_for

#: Who calls whom. Users ask ``web``.
CALLS = {
    "web": ["backend"],
    "backend": ["tasks", "workspaces", "documents", "billing"],
    "tasks": ["agents", "ollama"],
    "workspaces": ["notify"],
    "documents": ["chroma"],
    "agents": ["ollama", "chroma"],
    "billing": [],
    "notify": [],
    "ollama": [],
    "chroma": [],
}


class Apps(Process):
    """All of them, in one process. ``ports``: where their sidecars find them; ``calls``: the ports that each dials."""

    def __init__(self, folder: Path, ports: dict[str, int], calls: dict[str, list[int]]) -> None:
        self.ports = ports
        script = Path(__file__).with_name("ten_apps.py")
        apps = [f"{name}={port}={','.join(map(str, calls[name]))}" for name, port in ports.items()]
        super().__init__([sys.executable, str(script), *apps], folder / "apps.log")

    def ready(self) -> Self:
        for port in self.ports.values():
            wait_for(lambda port=port: get(f"http://127.0.0.1:{port}/health")[0] == 200, self.output)  # type: ignore[misc]
        return self

    def fault(self, name: str, status: int = 0, ms: int = 0) -> None:
        """Let an app answer with that status (0: as usual), so much later."""
        url = f"http://127.0.0.1:{self.ports[name]}/fault?status={status}&ms={ms}"
        urllib.request.urlopen(urllib.request.Request(url, b"", method="POST"), timeout=PATIENCE).close()


class Ten:
    """The mesh. Users come as long as it is used: see :func:`ten`."""

    def __init__(self, folder: Path, changes: dict[str, dict[str, Any]]) -> None:
        self.dials = {(name, it): free_port() for name, calls in CALLS.items() for it in calls}
        ports = {name: free_port() for name in CALLS}
        self.apps = Apps(folder, ports, {name: [self.dials[name, it] for it in CALLS[name]] for name in CALLS})
        self.sidecars = {
            name: Sidecar(folder, self._config(folder, name, ports[name]) | changes.get(name, {}), name)
            for name in CALLS
        }

    def _config(self, folder: Path, name: str, app: int) -> dict[str, Any]:
        return {
            "service": {
                "name": name, "id": f"{name}-1", "address": "127.0.0.1", "app": f"127.0.0.1:{app}",
                "check": {"http": "/health", "interval": "1s", "timeout": "5s"},
            },
            "registry": f"directory://{folder}/registry",
            "inbound": {"bind": "127.0.0.1:0"},
            "probes": {"bind": "127.0.0.1:0"},
            "upstreams": {
                it: {"bind": f"127.0.0.1:{self.dials[name, it]}", "discover": {"service": it},
                     "retry": {"initial_delay": "10ms", "max_delay": "50ms"}}
                for it in CALLS[name]
            },
        }  # fmt: skip

    def complete(self) -> bool:
        """Whether each sidecar knows a healthy endpoint of all that it calls."""
        return all(
            any(endpoint["state"] == "healthy" for endpoint in upstream["endpoints"])
            for sidecar in self.sidecars.values()
            for upstream in get(f"{sidecar.admin}/upstreams")[1]["upstreams"]
        )

    def ask(self) -> int:
        """What a user gets."""
        return get(f"http://127.0.0.1:{self.sidecars['web'].port('web')}/orders")[0]


@contextmanager
def ten(folder: Path, changes: dict[str, dict[str, Any]] | None = None, pause: float = 0.2) -> Iterator[Ten]:
    """One that is ready; users ask it for something with that pause in between. ``changes``: sections of sidecars'
    configurations that are others."""
    mesh = Ten(folder, changes or {})
    over = threading.Event()

    def users() -> None:
        while not over.wait(pause):
            mesh.ask()

    with ending(mesh.apps, *mesh.sidecars.values()):
        mesh.apps.ready()
        for sidecar in mesh.sidecars.values():
            sidecar.ready()
        wait_for(mesh.complete, "each knows those that it calls")
        wait_for(lambda: mesh.ask() == 200, "users are served")
        thread = threading.Thread(target=users, name="users", daemon=True)
        thread.start()
        try:
            yield mesh
        finally:
            over.set()
            thread.join()
