"""The clients: what each needs, how its program is built and called, and how long it rests between two tries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import ROOT, BenchError

_SOURCES: Final = Path(__file__).parent / "clients"
_JAR: Final = Path("/usr/share/java/amqp-client.jar")
_SLF4J: Final = Path("/usr/share/java/slf4j-api.jar")
_GOPATH: Final = Path("/usr/share/gocode")
_NODE_MODULES: Final = ROOT / ".cache" / "node" / "node_modules"


@dataclass(frozen=True, slots=True)
class Kind:
    """``needs``: programs and files; ``package``: where they come from; ``modules``: of Python. ``build`` makes
    ``{built}`` in the folder, ``command`` runs it, and then come a port and a queue. ``pause``: the longest that it
    rests between two tries, seconds, and ``recovery``: who tries again, in words."""

    name: str
    package: str
    recovery: str
    pause: float
    command: Sequence[str]
    needs: Sequence[str] = ()
    modules: Sequence[str] = ()
    build: Sequence[str] = ()
    version: Sequence[str] = ()

    def missing(self) -> bool:
        """Whether something that it needs is not on this machine."""
        return any(shutil.which(need) is None and not Path(need).exists() for need in self.needs) or any(
            module not in sys.modules and importlib.util.find_spec(module) is None for module in self.modules
        )

    def prepare(self, folder: Path) -> list[str]:
        """Build it in ``folder``, and say how to call it. Raises :class:`BenchError`."""
        if self.build:
            done = subprocess.run(
                self._filled(self.build, folder),
                capture_output=True,
                text=True,
                env=environment(folder),
                timeout=300,
                check=False,
            )
            if done.returncode != 0:
                raise BenchError(f"{self.name} cannot be built: {done.stderr.strip()[-500:]}")
        return self._filled(self.command, folder)

    def said_version(self) -> str:
        """The version of the library, as this machine's packages tell it."""
        done = subprocess.run(self.version, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() or "unknown"

    @staticmethod
    def _filled(command: Sequence[str], folder: Path) -> list[str]:
        return [part.format(sources=_SOURCES, folder=folder) for part in command]


def environment(folder: Path) -> dict[str, str]:
    """For building and running all of them."""
    return {
        **os.environ,
        "C_FORCE_ROOT": "1",  # Celery
        "PYTHONWARNINGS": "ignore",
        "NODE_PATH": str(_NODE_MODULES),
        "GO111MODULE": "off",
        "GOPATH": str(_GOPATH),
        "GOCACHE": str(folder / "go"),
        "GOFLAGS": "",
    }


def _python(name: str, recovery: str, pause: float, *packages: str) -> Kind:
    file = f"client_{name.replace('-', '_')}.py"
    telling = f"import importlib.metadata as m; print(', '.join(f'{{n}} {{m.version(n)}}' for n in {packages!r}))"
    return Kind(
        name=name,
        package=f"pip install {' '.join(packages)}",
        recovery=recovery,
        pause=pause,
        command=[sys.executable, f"{{sources}}/{file}"],
        modules=[package.replace("-", "_") for package in packages],
        version=[sys.executable, "-c", telling],
    )


def _debian(package: str) -> list[str]:
    return ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]


KINDS: Final = (
    _python("pika", "loop as in its documentation, every 1 s", 1, "pika"),
    _python("aio-pika", "its own (`connect_robust`), every 5 s", 5, "aio-pika", "aiormq"),
    _python("kombu", "its own (`ConsumerMixin`), after 2, 4, … 30 s", 30, "kombu", "amqp"),
    _python("celery", "its own (worker, `apply_async`), after 2, 4, … 30 s", 30, "celery", "kombu", "amqp"),
    Kind(
        name="amqplib",
        package="scripts/ensure-amqplib (npm)",
        recovery="none; loop of its users, every 1 s",
        pause=1,
        command=["node", "{sources}/client_amqplib.cjs"],
        needs=["node", str(_NODE_MODULES / "amqplib")],
        version=["node", "-p", f"'amqplib ' + require('{_NODE_MODULES}/amqplib/package.json').version"],
    ),
    Kind(
        name="go",
        package="apt-get install golang-go golang-github-rabbitmq-amqp091-go-dev",
        recovery="none; loop of its example, every 5 s",
        pause=5,
        command=["{folder}/client_go"],
        needs=["go", str(_GOPATH / "src/github.com/rabbitmq/amqp091-go")],
        build=["go", "build", "-o", "{folder}/client_go", "{sources}/client_go.go"],
        version=_debian("golang-github-rabbitmq-amqp091-go-dev"),
    ),
    Kind(
        name="java",
        package="apt-get install default-jdk-headless librabbitmq-client-java libslf4j-java",
        recovery="its own (automatic recovery), every 5 s",
        pause=5,
        command=["java", "-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp", f"{{folder}}:{_JAR}:{_SLF4J}", "Client"],
        needs=["java", "javac", str(_JAR), str(_SLF4J)],
        build=["javac", "-cp", str(_JAR), "-d", "{folder}", "{sources}/Client.java"],
        version=_debian("librabbitmq-client-java"),
    ),
    Kind(
        name="bunny",
        package="apt-get install ruby-bunny",
        # It rests twice before its first try, as it first has to find out that its list of hosts is used up.
        recovery="its own (automatic recovery), after 10 s, then every 5 s",
        pause=10,
        command=["ruby", "{sources}/client_bunny.rb"],
        needs=["ruby", "/usr/share/rubygems-integration/all/specifications"],
        version=_debian("ruby-bunny"),
    ),
    Kind(
        name="php-amqplib",
        package="apt-get install php-cli php-amqplib",
        recovery="none; loop of its demo, every 1 s",
        pause=1,
        command=["php", "{sources}/client_php.php"],
        needs=["php", "/usr/share/php/PhpAmqpLib/autoload.php"],
        version=_debian("php-amqplib"),
    ),
    Kind(
        name="librabbitmq",
        package="apt-get install gcc librabbitmq-dev",
        recovery="none; loop of its users, every 1 s",
        pause=1,
        command=["{folder}/client_librabbitmq"],
        needs=["gcc", "/usr/include/amqp.h"],
        build=[
            "gcc", "-O1", "-o", "{folder}/client_librabbitmq", "{sources}/client_librabbitmq.c", "-lrabbitmq",
        ],
        version=_debian("librabbitmq-dev"),
    ),
)  # fmt: skip
