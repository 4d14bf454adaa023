"""What a validation starts for itself: a sidecar in a child process, and a sample service behind it.

Both are registered in the mesh's registry, under names that nothing else has, and taken out again in every case.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from sidecar.cli.validate.lookup import Lookup, LookupFailed
from sidecar.cli.validate.peers import Peer, PeerError
from sidecar.cli.validate.sample import Instance
from sidecar.endpoints.balancers.table import NAMES as BALANCERS
from sidecar.registry import Registration, Registry, Settings, Workload, create

#: What the names of all that is registered begin with.
PREFIX: Final = "sidecar-validate-"
#: The weights of the sample's instances.
WEIGHTS: Final = (1, 1, 2)
#: Seconds that the sidecar may take to start, a change to be seen everywhere, the sidecar to end.
START: Final = 30.0
SEEN: Final = 15.0
END: Final = 10.0
#: The breaker under test: failures that open it, and seconds until it tries again.
THRESHOLD: Final = 3
RESET: Final = 0.5
#: The upstream with that breaker.
BREAKER: Final = "breaker"

_LOG_LINES: Final = 3


class LabError(Exception):
    """It could not be started; the text says why, without secrets."""


class Lab:
    """``lookup`` None: without a registry, the sidecar is told where the instances are."""

    def __init__(self, settings: Settings, registry_url: str, lookup: Lookup | None, http: aiohttp.ClientSession):
        self.service = PREFIX + secrets.token_hex(4)
        self.sample = f"{self.service}-sample"
        self.instances = [Instance(f"{self.sample}-{n}", weight) for n, weight in enumerate(WEIGHTS, 1)]
        self.lookup = lookup
        self.admin: Peer | None = None
        self._settings = settings
        self._url = registry_url if lookup is not None else "none"
        self._http = http
        self._folder: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self._registry: Registry | None = None
        self.registrations: dict[str, Registration] = {}

    async def start(self) -> None:
        """Raises :class:`LabError`; :meth:`close` is to be called all the same."""
        try:
            for instance in self.instances:
                await instance.listen()
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # for this user alone
            file = self._folder / "sidecar.yaml"
            file.write_text(json.dumps(self._config()))  # JSON is YAML
            if self.lookup is not None:
                self._registry = create(self._settings)
                for instance in self.instances:
                    self.enroll(instance)
            self._spawn(file)
            await self._ready()
        except LabError:
            raise
        except Exception as error:
            raise LabError(f"{type(error).__name__}: {error}") from error

    def enroll(self, instance: Instance) -> None:
        """Register an instance, well."""
        assert self._registry is not None
        workload = Workload(
            name=self.sample, id=instance.name, address="127.0.0.1", port=instance.port,
            passing_weight=instance.weight, tags=("sidecar-validate",), check_interval=2.0, fronted=False,
        )  # fmt: skip
        registration = self.registrations[instance.name] = self._registry.enroll(workload)
        registration.set_health("passing", "sidecar validate's own")

    def url(self, upstream: str) -> str:
        """Where one of the sidecar's upstream ports is."""
        return f"http://127.0.0.1:{self.port(upstream)}/"

    def port(self, upstream: str) -> int:
        return self._ports[upstream]

    async def call(self, upstream: str) -> tuple[int, str, str]:
        """A request through the sidecar: status, its error code or empty, and the body."""
        try:
            async with self._http.get(self.url(upstream), timeout=aiohttp.ClientTimeout(total=SEEN)) as answer:
                return answer.status, answer.headers.get("x-sidecar-error", ""), await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 0, type(error).__name__, ""

    async def upstream(self, name: str) -> dict[str, Any]:
        """What the sidecar says of an upstream. Raises :class:`PeerError`."""
        assert self.admin is not None
        return await self.admin.ask(f"/upstreams/{name}")

    async def known(self, upstream: str) -> set[str]:
        """The instances that the sidecar has in an upstream."""
        try:
            return {str(it["id"]) for it in (await self.upstream(upstream))["endpoints"]}
        except (PeerError, LookupError, TypeError):
            return set()

    async def registered(self, service: str) -> set[str]:
        """The instances that the registry has of a service. Raises :class:`LookupFailed`."""
        assert self.lookup is not None
        return {it.id for it in await self.lookup.instances(service)}

    async def close(self) -> list[str]:
        """Take everything out, end everything; what is left all the same, a line each."""
        left: list[str] = []
        await asyncio.gather(*(it.leave() for it in self.registrations.values()))
        await self._end_child()
        if self._registry is not None:
            await self._registry.close()
        if self.lookup is not None:
            left += await self._forget(self.lookup)
        for instance in self.instances:
            await instance.shut()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._folder.exists():
                left.append(f"the folder {self._folder}")
        return left

    async def _forget(self, lookup: Lookup) -> list[str]:
        """Whatever of ours the registry still has is taken out, and what stays is named."""
        try:
            for service in (self.sample, self.service):
                for id in await self.registered(service):
                    await lookup.forget(service, id)
            kept = {id for service in (self.sample, self.service) for id in await self.registered(service)}
        except LookupFailed as error:
            return [f"perhaps {self.service} and {self.sample} in the registry: {error}"]
        return [f"{id} in the registry" for id in sorted(kept)]

    def _config(self) -> dict[str, Any]:
        retry = {"max_attempts": 3, "initial_delay": "20ms", "max_delay": "100ms"}
        addresses = [{"address": f"127.0.0.1:{it.port}", "weight": it.weight} for it in self.instances]
        where = {"discover": {"service": self.sample}} if self.lookup is not None else {"endpoints": addresses}
        port: dict[str, Any] = {"bind": "127.0.0.1:0", **where}
        upstreams = {name: {**port, "balancer": name, "retry": retry} for name in BALANCERS}
        breaker = {"failure_threshold": THRESHOLD, "reset_timeout": RESET, "half_open_requests": 1}
        upstreams[BREAKER] = {**port, "retry": "off", "circuit_breaker": breaker}
        consul = {"token": "${CONSUL_HTTP_TOKEN:-}"}  # from the environment: it is written nowhere
        if self._settings.datacenter:
            consul["datacenter"] = self._settings.datacenter
        return {
            "service": {
                "name": self.service,
                "id": f"{self.service}-1",
                "address": "127.0.0.1",
                "app": f"127.0.0.1:{self.instances[0].port}",
                "check": {"http": "/", "interval": "1s"},
                "tags": ["sidecar-validate"],
            },
            "registry": self._url,
            **({"consul": consul} if self._settings.kind == "consul" else {}),
            "inbound": {"bind": "127.0.0.1:0"},
            "upstreams": upstreams,
            "admin": {"bind": "127.0.0.1:0"},
            "log": {"format": "json"},
            "drain": {"timeout": "1s"},
        }

    def _spawn(self, file: Path) -> None:
        # A session of its own: Ctrl-C in the terminal is for this process, which ends that one in order.
        with (file.parent / "log").open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sidecar.cli.validate.child", str(file), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def _ready(self) -> None:
        """Wait for the line of its log that says where it listens."""
        assert self._folder is not None
        assert self._child is not None
        log = self._folder / "log"
        until = time.monotonic() + START
        while time.monotonic() < until:
            lines = log.read_text(errors="replace").splitlines()
            for line in lines:
                if '"ready"' in line:
                    found = json.loads(line)
                    self._ports = {name: int(at.rpartition(":")[2]) for name, at in found["listeners"].items()}
                    self.admin = Peer(f"http://{found['admin']}", "", self._http)
                    return
            if self._child.poll() is not None:
                raise LabError(f"it has ended: {' | '.join(lines[-_LOG_LINES:])}")
            await asyncio.sleep(0.05)
        raise LabError(f"it is not ready after {START:g} s: {' | '.join(lines[-_LOG_LINES:])}")

    async def _end_child(self) -> None:
        child = self._child
        if child is None:
            return
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(child.wait, END)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def seen(look: Callable[[], Awaitable[bool]], seconds: float = SEEN) -> float | None:
    """The seconds until ``look`` is true; None: it did not become so in time."""
    began = time.monotonic()
    while True:
        if await look():
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            return None
        await asyncio.sleep(0.03)
