"""The processes: stand-ins for Ollama, and sidecars in front of them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.processes import Child
from bench.sidecars import Running, fetched, wait
from sidecar.demo.ports import free_ports


class Server:
    """A stand-in, with options as ``python -m examples.ollama_stand_in`` has them."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, **options: object) -> None:
        self.name = name
        (self.port,) = free_ports(1)
        arguments = [it for key, value in options.items() for it in (f"--{key}", *map(str, _listed(value)))]
        command = [sys.executable, "-m", "bench.llm.server", "--port", str(self.port), *arguments]
        self.process = stack.enter_context(Child(name, command, None, folder / f"{name}.log"))

    def ready(self) -> None:
        """Wait until it answers."""
        wait(lambda: fetched(self.port, "/bench"), f"{self.name} answers", self.process)

    def told(self) -> dict[str, Any]:
        """What it has done: see :mod:`bench.llm.server`."""
        found: dict[str, Any] = fetched(self.port, "/bench")
        return found


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


class Site:
    """A folder for what is started there, until the stack is closed."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder

    def server(self, name: str, **options: object) -> Server:
        """Start one, and wait for it."""
        found = Server(self._stack, self._folder, name, **options)
        found.ready()
        return found

    def process(self, name: str, *command: str | Path) -> Child:
        """Start that."""
        return self._stack.enter_context(Child(name, list(command), None, self._folder / f"{name}.log"))

    def sidecar(self, name: str, **upstreams: dict[str, Any]) -> Running:
        """Start one in front of these, and wait for it."""
        found = Running(self._stack, self._folder, name, upstreams)
        found.ready()
        return found


def upstream(*servers: int, **llm: object) -> dict[str, Any]:
    """An upstream with the profile, at these ports."""
    return {"endpoints": [f"127.0.0.1:{port}" for port in servers], "profile": "llm", "llm": {"slots": 4, **llm}}
