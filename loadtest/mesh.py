"""A small mesh on loopback to put load on: the greeter's sidecar, the clock's sidecar, the clock."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.processes import ROOT, BenchError, Child
from sidecar.demo.ports import free_ports


@contextmanager
def mesh() -> Iterator[str]:
    """The URL at which an app would dial the clock through its own sidecar; that way leads through both sidecars.

    Raises :class:`BenchError` when something does not start. All of it ends with the block.
    """
    clock, inbound, outbound, admin_clock, admin_greeter = free_ports(5)
    with tempfile.TemporaryDirectory(prefix="sidecar-loadtest-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        registry = f"directory://{folder / 'mesh'}"
        (folder / "mesh").mkdir()
        # Room for the burst's users. All other policies stand at their defaults.
        room = {"max_connections": 500, "max_requests": 200, "max_pending": 500}
        configs: dict[str, dict[str, Any]] = {
            "clock": {
                "service": {"name": "clock", "address": "127.0.0.1", "app": f"127.0.0.1:{clock}"},
                "registry": registry,
                "inbound": {"bind": f"127.0.0.1:{inbound}", "bulkhead": room},
                "admin": {"bind": f"127.0.0.1:{admin_clock}"},
            },
            "greeter": {
                "service": {"name": "greeter"},
                "registry": registry,
                "upstreams": {
                    "clock": {"bind": f"127.0.0.1:{outbound}", "discover": {"service": "clock"}, "bulkhead": room}
                },
                "admin": {"bind": f"127.0.0.1:{admin_greeter}"},
            },
        }
        children = [
            stack.enter_context(
                Child("clock", [sys.executable, ROOT / "examples" / "clock.py", str(clock)], None, folder / "clock.log")
            )
        ]
        for name, config in configs.items():
            path = folder / f"{name}.yaml"
            path.write_text(json.dumps(config))  # JSON is YAML
            command = [sys.executable, "-m", "sidecar", "run", str(path)]
            children.append(
                stack.enter_context(Child(f"{name}'s sidecar", command, None, folder / f"{name}-sidecar.log"))
            )
        url = f"http://127.0.0.1:{outbound}"
        _wait(url, children)
        yield url


def _wait(url: str, children: list[Child], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    problem: OSError | None = None
    while time.monotonic() < deadline:
        for child in children:
            child.check()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            problem = error
        time.sleep(0.05)
    raise BenchError(f"the mesh did not answer at {url} within {timeout:g} s: {problem}")
