"""Sidecars of a benchmark, as processes of their own: started, asked, and ended with the block."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.contenders import compiled_program
from bench.processes import BenchError, Child
from sidecar.demo.ports import free_ports

#: Seconds until something has to be there.
PATIENCE: Final = 60.0


def program() -> list[str | Path]:
    """The compiled build if there is one, else the source as it is."""
    try:
        return [compiled_program()]
    except BenchError:
        return [sys.executable, "-m", "sidecar"]


class Running:
    """A sidecar. ``ports`` are those of its upstreams, by name; each gets one here. Ends with ``stack``."""

    def __init__(
        self, stack: ExitStack, folder: Path, name: str, upstreams: dict[str, dict[str, Any]], registry: str = "none"
    ) -> None:
        self.name = name
        self.admin, *ports = free_ports(1 + len(upstreams))
        self.ports = dict(zip(upstreams, ports, strict=True))
        config = {
            "service": {"name": name},
            "registry": registry,
            "admin": {"bind": f"127.0.0.1:{self.admin}"},
            "drain": {"timeout": "1s"},
            "log": {"level": "error"},
            "upstreams": {
                it: {"bind": f"127.0.0.1:{self.ports[it]}", **settings} for it, settings in upstreams.items()
            },
        }
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        self.process = stack.enter_context(Child(name, [*program(), "run", file], None, folder / f"{name}.log"))

    def ready(self) -> None:
        """Wait until it serves. Raises :class:`~bench.processes.BenchError`."""
        wait(lambda: self.get("/ready") is not None, f"{self.name} is ready", self.process)

    def get(self, path: str) -> Any:
        """What the admin API answers, as JSON; None: it does not, or says no."""
        return fetched(self.admin, path)

    def upstream(self, name: str) -> dict[str, Any]:
        """``GET /upstreams/NAME``."""
        found: dict[str, Any] | None = self.get(f"/upstreams/{name}")
        if found is None:
            raise BenchError(f"{self.name} does not answer")
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Those of a kind that it remembers, the oldest first."""
        found = self.get("/events")
        if found is None:
            raise BenchError(f"{self.name} does not answer")
        return [it for it in found["events"] if it["kind"] == kind]


def fetched(port: int, path: str) -> Any:
    """A document of JSON from a port of this machine; None: there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            data = answer.read()
    except OSError:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def listens(port: int) -> bool:
    """Whether something does, on this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError:
        return False
    return True


def wait(until: Any, what: str, process: Child | None = None, seconds: float = PATIENCE) -> None:
    """Ask ``until`` for something true. Raises :class:`~bench.processes.BenchError` when it takes too long, or the
    process has ended."""
    end = time.monotonic() + seconds
    while not until():
        if process is not None:
            process.check()
        if time.monotonic() > end:
            raise BenchError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def end_with_terminate() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what it has started ends, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
