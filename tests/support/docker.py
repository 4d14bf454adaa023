"""A Docker engine for tests: started from what ``scripts/ensure-docker`` unpacked, with folders of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.patience import PATIENCE
from support.processes import ROOT, get, missing, wait_for

CACHE: Final = ROOT / ".cache" / "docker"
#: What images are built on, by the name that the Dockerfile has for it.
BASE: Final = "python:3.11-slim"
SIDECAR: Final = "sidecar"
#: The container engine starts again, in up to this time, what has ended; the sidecars need a moment to notice.
SECONDS: Final = 120.0
#: Made by the engine, and not in a folder of its own.
_KEY: Final = Path("/etc/docker/key.json")


@dataclass(frozen=True)
class Project:
    """What Compose is given: files, of which each goes on top of those before it, profiles, and variables."""

    files: Sequence[Path]
    profiles: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> list[str]:
        named = [("--file", str(it)) for it in self.files] + [("--profile", it) for it in self.profiles]
        return [word for pair in named for word in pair]


class Engine:
    """The running engine, as its client sees it."""

    def __init__(self, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "PATH": f"{CACHE}/engine/usr/bin:{CACHE}/engine/usr/sbin:{os.environ['PATH']}:/usr/sbin",
            "DOCKER_HOST": f"unix://{folder}/sock",
            "DOCKER_CONFIG": str(folder / "client"),
            "DOCKER_BUILDKIT": "0",  # which needs a network of the engine's
        }
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data, rest = CACHE / "data", self._folder
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--data-root", data, "--exec-root", rest / "exec", "--pidfile", rest / "pid",
                    "-H", f"unix://{rest}/sock", "--storage-driver=overlay2", "--bridge=none",
                    # Nothing of the host's is changed.
                    "--iptables=false", "--ip6tables=false", "--ip-forward=false",
                ],
                env=self._environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: self._ran("docker", "version").returncode == 0, lambda: self._log.read_text()[-2000:])

    def stop(self) -> None:
        """End it, by its pid file, and leave nothing mounted."""
        try:
            os.kill(int((self._folder / "pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            pass  # it did not get that far
        if self._process is not None:
            self._process.wait(PATIENCE)
        for where in self.mounted():
            subprocess.run(["umount", where], check=True)

    def mounted(self) -> list[str]:
        """What is mounted in its folders, the innermost first."""
        found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        ours = (f"{self._folder}/", f"{CACHE}/")
        return sorted((it for it in found if it.startswith(ours)), key=len, reverse=True)

    def docker(self, *arguments: str | Path, seconds: float = 120) -> str:
        """Run the client; what it prints. What goes wrong is an error with all that it said."""
        return self._checked("docker", *arguments, seconds=seconds)

    def compose(self, project: Project, *arguments: str, seconds: float = 240) -> str:
        command = ["docker-compose", "--project-name", "sidecartest", *project.options(), *arguments]
        return self._checked(*command, seconds=seconds, variables=project.environment)

    def inspect(self, name: str) -> Any:
        return json.loads(self.docker("inspect", name))[0]

    def container(self, project: Project, service: str) -> str:
        """The id of a service's container, its first one."""
        return self.compose(project, "ps", "--all", "--quiet", service).split()[0]

    def published(self, project: Project, service: str, port: int) -> str:
        """The URL of a published port."""
        return "http://" + self.compose(project, "port", service, str(port)).strip()

    def _checked(self, *command: str | Path, seconds: float, variables: Mapping[str, str] | None = None) -> str:
        ran = self._ran(*command, seconds=seconds, variables=variables)
        assert ran.returncode == 0, f"{' '.join(map(str, command))}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout

    def _ran(
        self, *command: str | Path, seconds: float = 60, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**self._environment, **(variables or {})}
        return subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )


@contextmanager
def engine() -> Iterator[Engine]:
    """A running engine with the base image. Without one the test is skipped, in CI it fails."""
    if not (CACHE / "engine").is_dir() or not (CACHE / "base.tar").is_file():
        missing("there is no Docker engine here that tests could start: see what scripts/ensure-docker says")
    keyless = not _KEY.exists()
    folder = Path(tempfile.mkdtemp(prefix="sidecar-docker-"))
    found = Engine(folder)
    try:
        try:
            found.start()
        except (AssertionError, OSError) as error:
            missing(f"no Docker engine starts here: {error}")
        for kind in ("container", "network", "volume"):  # of a run that was cut short
            found.docker(kind, "prune", "--force")
        if BASE not in found.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
            found.docker("import", CACHE / "base.tar", BASE)
        yield found
    finally:
        found.stop()
        assert found.mounted() == []
        if keyless:
            _KEY.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or not there
                _KEY.parent.rmdir()
        shutil.rmtree(folder)


def build(engine: Engine, file: Path, tag: str, context: Path, *options: str) -> float:
    """Build an image; the seconds that it took."""
    began = time.monotonic()
    engine.docker("build", "--network", "host", *options, "-f", file, "-t", tag, context, seconds=3000)
    return time.monotonic() - began


class Mesh:
    """A project of Compose that runs."""

    def __init__(self, docker: Engine, project: Project) -> None:
        self.docker = docker
        self.project = project

    def compose(self, *arguments: str, seconds: float = 240) -> str:
        return self.docker.compose(self.project, *arguments, seconds=seconds)

    def container(self, service: str) -> str:
        return self.docker.container(self.project, service)

    def published(self, service: str, port: int) -> str:
        return self.docker.published(self.project, service, port)

    def pid(self, service: str) -> int:
        """The process id, on this host, of a container's first process."""
        return int(self.docker.inspect(self.container(service))["State"]["Pid"])

    def well(self, url: str) -> None:
        """Wait until five answers in a row are good: it works, and not by chance."""

        def five() -> bool:
            return all(get(url, 10)[0] == 200 for _ in range(5))

        wait_for(five, lambda: f"{get(url, 10)}\n{self.compose('ps', '--all')}\n{self.logs()}", SECONDS)

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "8")[-6000:]

    def measured(self, what: str, change: Callable[[], object], url: str) -> None:
        began = time.monotonic()
        change()
        self.well(url)
        print(f"{what}: well again after {time.monotonic() - began:.1f} s")


@contextmanager
def mesh(docker: Engine, project: Project, *options: str) -> Iterator[Mesh]:
    """The project, up (``options``: ``--wait``), and in the end down again, with its volumes."""
    found = Mesh(docker, project)
    try:
        found.compose("up", "--detach", "--no-build", "--pull", "never", *options, seconds=480)
        yield found
    finally:
        found.compose("down", "--volumes", "--timeout", "20")
