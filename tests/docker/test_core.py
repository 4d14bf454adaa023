"""``compose.sidecars.yml`` itself with the profile ``core``: it comes up in its order, and when part of it ends or is
made anew, all of it serves again. What stands in for the images of others: ``core/Dockerfile``."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pika
import pytest

from support.docker import Engine, Mesh, Project, build, mesh
from support.processes import ROOT, get, wait_for

HERE: Final = Path(__file__).parent
STAND_INS: Final = ("consul", "redis", "postgres", "rabbitmq", "neo4j", "kong")
PODS: Final = ("clock", "greeter", "postgres", "redis", "neo4j", "rabbitmq")
APPS: Final = (*PODS, "consul", "sentinel-1", "kong")
#: Who is healthy before whom is started.
ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    "consul": (*(f"{it}-sidecar" for it in PODS), "kong", "caller"),
    "redis": ("sentinel-1",),
    "greeter-sidecar": ("kong",),
}
#: Until all serve again: breakers that opened try again after 30 s, and RabbitMQ takes its time.
SECONDS: Final = 180.0
ANEW: Final = ("up", "--detach", "--force-recreate", "--pull", "never", "--no-build")
BOLT: Final = b"\x60\x60\xb0\x17\0\0\4\5" + bytes(12)


class Core:
    """The mesh, and what shows that each part of it serves."""

    def __init__(self, mesh: Mesh, passwords: Path) -> None:
        self.mesh = mesh
        self._passwords = passwords
        self.checks: Mapping[str, Callable[[], bool]] = {
            "greeter": lambda: self._greets("greeter-pod", 10080, "/"),
            "kong": lambda: self._greets("kong", 8000, "/api/v1/greeting"),
            "postgres": self._postgres,
            "redis": self._redis,
            "neo4j": self._neo4j,
            "rabbitmq": self._rabbitmq,
        }

    def well(self) -> None:
        """Wait until each part of the mesh has served through its sidecars."""
        for name, check in self.checks.items():
            wait_for(partial(self._passes, check), partial(self._about, name), SECONDS)

    def measured(self, what: str, change: Callable[[], object]) -> None:
        began = time.monotonic()
        change()
        changed = time.monotonic()
        self.well()
        print(f"{what}: {changed - began:.1f} s, all serve again after {time.monotonic() - changed:.1f} s more")

    def password(self, name: str) -> str:
        return (self._passwords / name).read_text()

    def _passes(self, check: Callable[[], bool]) -> bool:
        try:
            return check()
        except (AssertionError, OSError, IndexError, pika.exceptions.AMQPError):  # also: there is no container now
            time.sleep(0.2)
            return False

    def _about(self, name: str) -> str:
        return f"{name} does not serve\n{self.mesh.compose('ps', '--all')}\n{self.mesh.logs()}"

    def _address(self, service: str, port: int) -> tuple[str, int]:
        host, _, found = self.mesh.published(service, port).removeprefix("http://").partition(":")
        return host, int(found)

    def _greets(self, service: str, port: int, path: str) -> bool:
        """The greeter asks the clock: four sidecars' ports, and Kong."""
        status, body = get(self.mesh.published(service, port) + path, 10)
        return status == 200 and body["greeting"] == "Hello!" and "time" in body

    def _postgres(self) -> bool:
        told = ("--env", f"PGPASSWORD={self.password('postgres')}", "--env", "PGCONNECT_TIMEOUT=5")
        query = ("psql", "-h", "caller", "-U", "sutazai", "-d", "postgres", "-Atc", "select 6 * 7")
        return self.mesh.docker.docker("exec", *told, self.mesh.container("postgres"), *query).strip() == "42"

    def _redis(self) -> bool:
        mark = secrets.token_hex(8)
        words = [f"AUTH {self.password('redis')}", f"SET mark {mark}", "GET mark", "QUIT"]
        said = self._dialogue(6379, "".join(f"{it}\r\n" for it in words).encode())
        return said == f"+OK\r\n+OK\r\n$16\r\n{mark}\r\n+OK\r\n".encode()

    def _neo4j(self) -> bool:
        return self._dialogue(7687, BOLT) == BOLT[4:8]

    def _dialogue(self, port: int, said: bytes) -> bytes:
        """Whatever comes back, until the other side ends or we do."""
        with socket.create_connection(self._address("caller", port), timeout=10) as connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(4096), b""))

    def _rabbitmq(self) -> bool:
        """A message that the broker has taken is there."""
        host, port = self._address("caller", 5672)
        login = pika.PlainCredentials("sutazai", self.password("rabbitmq-sutazai"))
        with pika.BlockingConnection(
            pika.ConnectionParameters(host, port, "/sutazai", login, socket_timeout=10, blocked_connection_timeout=10)
        ) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            persistent = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("workflows.topic", "task.decomposition.request", b"do", persistent, mandatory=True)
            method, _, body = channel.basic_get("task.decomposition.request", auto_ack=True)
            return method is not None and body == b"do"


@pytest.fixture(scope="module")
def core(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    context = tmp_path_factory.mktemp("core")
    shutil.copytree(HERE / "core", context, dirs_exist_ok=True)
    shutil.copy(ROOT / ".cache" / "consul" / "consul", context)
    for name in STAND_INS:
        build(docker, context / "Dockerfile", f"sidecartest-{name}", context, "--target", name)
    passwords = tmp_path_factory.mktemp("secrets")
    subprocess.run([sys.executable, ROOT / "scripts" / "make-secrets", passwords], check=True, capture_output=True)
    files = [ROOT / "compose.sidecars.yml", HERE / "core.yml"]
    project = Project(files, ["core"], {"SECRETS": str(passwords)})
    began = time.monotonic()
    with mesh(docker, project, "--wait") as found:
        print(f"\nthe profile core is healthy after {time.monotonic() - began:.0f} s")
        yield Core(found, passwords)


def happened(core: Core) -> list[tuple[str, str]]:
    """What containers did so far: the service, and ``start`` or what its health became."""
    lines = core.mesh.docker.docker(
        "events", "--since", "1h", "--until", "0s", "--filter", "type=container", "--format", "{{json .}}"
    ).splitlines()
    events: list[Any] = [json.loads(it) for it in lines]
    named = [(it["Actor"]["Attributes"].get("com.docker.compose.service", ""), it["status"]) for it in events]
    return [it for it in named if it[0]]


def test_they_start_one_after_the_other(core: Core) -> None:
    events = happened(core)
    for first, then in ORDER.items():
        healthy = events.index((first, "health_status: healthy"))
        assert [it for it in then if events.index((it, "start")) < healthy] == [], events
    for app in PODS:
        assert events.index((f"{app}-pod", "start")) < events.index((app, "start")), events


def test_all_serve_through_their_sidecars(core: Core) -> None:
    core.well()


@pytest.mark.parametrize("app", APPS)
def test_an_app_is_killed(core: Core, app: str) -> None:
    killed = core.mesh.pid(app)
    core.measured(f"kill -9 of {app}", lambda: os.kill(killed, signal.SIGKILL))
    assert core.mesh.pid(app) not in (0, killed)


@pytest.mark.parametrize("app", PODS)
def test_a_sidecar_is_killed(core: Core, app: str) -> None:
    killed = core.mesh.pid(f"{app}-sidecar")
    core.measured(f"kill -9 of {app}'s sidecar", lambda: os.kill(killed, signal.SIGKILL))
    assert core.mesh.pid(f"{app}-sidecar") not in (0, killed)


@pytest.mark.parametrize("app", APPS)
def test_an_app_is_stopped_and_started(core: Core, app: str) -> None:
    core.mesh.compose("stop", app)
    core.measured(f"start of {app}", lambda: core.mesh.compose("start", app))


@pytest.mark.parametrize("app", APPS)
def test_an_app_is_made_anew(core: Core, app: str) -> None:
    before = core.mesh.container(app)
    core.measured(f"{app} made anew", lambda: core.mesh.compose(*ANEW, "--no-deps", app))
    assert core.mesh.container(app) != before


def test_all_are_made_anew(core: Core) -> None:
    core.measured("all made anew", lambda: core.mesh.compose(*ANEW, "--wait", seconds=480))
