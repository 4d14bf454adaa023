"""The processes: versions of a service, and four sidecars that call them, with their state in one folder."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.processes import Child
from bench.rollout.report import Changed
from bench.sidecars import Running, listens, wait
from sidecar.demo.ports import free_ports
from sidecar.simulate.scenarios.canary import OLD, Version

SIDECARS: Final = 4


class Candidate(NamedTuple):
    """A new version: what it is called, and is like; its kind (see :func:`bench.rollout.report.rows`); its requests a
    second, in all."""

    name: str
    what: str
    version: Version
    kind: str
    rate: float


class Guard(NamedTuple):
    """As in the file."""

    steps: tuple[int, ...]
    each: float
    window: float
    error_rate: str = "1%"
    p99: str = "100ms"
    min_requests: int = 100


class Stage:
    """All of it. Ends with ``stack``."""

    def __init__(self, stack: ExitStack, folder: Path, candidates: list[Candidate], guard: Guard) -> None:
        self.candidates = candidates
        old, *new = free_ports(1 + len(candidates))
        ports = dict(zip([it.name for it in candidates], new, strict=True))
        versions = {old: OLD, **{ports[it.name]: it.version for it in candidates}}
        arguments = [f"{port}={it.errors},{it.spread}" for port, it in versions.items()]
        command = [sys.executable, "-m", "bench.rollout.servers", *arguments]
        stack.enter_context(Child("servers", command, None, folder / "servers.log"))
        for port in versions:
            wait(lambda port=port: listens(port), "the versions listen")
        upstreams = {name: _upstream(old, port, guard) for name, port in ports.items()}
        registry = f"directory://{folder / 'registry'}"
        self.sidecars = [
            Running(stack, folder, f"caller-{number}", upstreams, registry) for number in range(1, SIDECARS + 1)
        ]
        for it in self.sidecars:
            it.ready()

    def changes(self) -> list[Changed]:
        """Each change of a canary's state, as each sidecar has noticed it; at times of the machine's clock."""
        ahead = time.time() - time.monotonic()
        return [
            Changed(it.name, event["upstream"], event["at"] - ahead, event["phase"], event["weight"], event["text"])
            for it in self.sidecars
            for event in map(_flat, it.events("canary"))
        ]

    def waits(self, name: str) -> str:
        """What the first sidecar's canary of that name waits for."""
        text: str = self.sidecars[0].upstream(name)["canary"]["waits_for"]
        return text


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    flat = {**event, **event.get("details", {})}
    return flat | {"at": datetime.fromisoformat(event["at"]).timestamp()}


def _upstream(old: int, new: int, guard: Guard) -> dict[str, Any]:
    """Nothing is tried again, so that every request that fails is seen to."""
    return {
        "endpoints": [
            {"address": f"127.0.0.1:{old}", "tags": ["v1"]},
            {"address": f"127.0.0.1:{new}", "tags": ["v2"]},
        ],
        "subsets": {"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
        "split": {"stable": 100},
        "canary": {
            "subset": "next",
            "steps": list(guard.steps),
            "each": f"{guard.each:g}s",
            "guard": {
                "error_rate": guard.error_rate, "p99": guard.p99, "min_requests": guard.min_requests,
                "window": f"{guard.window:g}s",
            },
        },
        "bulkhead": {"max_requests": 1000, "max_connections": 1000},
        "retry": "off",
        "circuit_breaker": "off",
        "health": {"eject": "off"},
    }  # fmt: skip
