"""The workloads, and their restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from bench.processes import BenchError
from sidecar.demo.ports import free_ports

#: How a workload's two processes are started and stopped. What loses nothing, and all.
SAFE: Final = ("pod", "exec")
ORDERS: Final = (*SAFE, "unhooked")
#: Seconds that anything may take.
PATIENCE: Final = 120.0
_APP: Final = Path(__file__).with_name("app.py")


class Workload:
    """An app with its sidecar. ``kind`` is ``tasks`` or ``web``; ``rates`` are a ``web``'s, a second."""

    def __init__(
        self, folder: Path, name: str, kind: str, order: str, consul: int, rabbitmq: int, rates: Sequence[float] = ()
    ) -> None:
        self.name = name
        self._kind = kind
        self._order = order
        self._log = folder / f"{name}.log"
        self._out = folder / f"{name}.out"
        self._file = folder / f"{name}.yaml"
        self._admin, self._app_port, inbound, self._amqp, calls = free_ports(5)
        config: dict[str, Any] = {
            "service": {"name": kind, "id": name, "address": "127.0.0.1"},
            "registry": f"consul://127.0.0.1:{consul}",
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "upstreams": {
                "rabbitmq": {
                    "bind": f"127.0.0.1:{self._amqp}", "protocol": "amqp", "endpoints": [f"127.0.0.1:{rabbitmq}"],
                }
            },
        }  # fmt: skip
        if kind == "tasks":
            check = {"http": "/health", "interval": "500ms", "timeout": "5s"}
            config["service"] |= {"app": f"127.0.0.1:{self._app_port}", "check": check}
            config["inbound"] = {"bind": f"127.0.0.1:{inbound}"}
            self._ports = [inbound, self._amqp]
            arguments = [str(self._app_port), str(self._amqp)]
        else:
            config["upstreams"]["tasks"] = {"bind": f"127.0.0.1:{calls}", "discover": {"service": "tasks"}}
            arguments = [str(calls), str(self._amqp), *map(str, rates)]
        self._file.write_text(yaml.safe_dump(config))
        self._command = [sys.executable, str(_APP), kind, *arguments]
        #: Characters that its app had printed when it was last started.
        self._before = 0
        self._app: subprocess.Popen[bytes] | None = None
        self._sidecar: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The sidecar, then at once the app, as soon as it has something to dial."""
        self._before = len(self._read())
        sidecar = [sys.executable, "-m", "sidecar"]
        if self._order == "exec":
            self._app = self._process([*sidecar, "exec", str(self._file), "--", *self._command], apart=True)
            return
        self._sidecar = self._process([*sidecar, "run", str(self._file)])
        _until(lambda: _answers(f"http://127.0.0.1:{self._admin}/ready") != 0, f"{self.name}'s sidecar listens")
        self._app = self._process(self._command)

    def stop(self) -> None:
        """What comes in, the app, then the sidecar; or all, as ``sidecar exec`` does that."""
        if self._order == "pod":
            hook = [sys.executable, "-m", "sidecar", "drain", "--admin", f"127.0.0.1:{self._admin}"]
            ran = subprocess.run(hook, capture_output=True, text=True, timeout=PATIENCE, check=False)
            if ran.returncode:
                raise BenchError(f"{self.name} was not drained: {ran.stderr}")
        for process in (self._app, self._sidecar):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                code = process.wait(PATIENCE)
                if code:
                    raise BenchError(f"{self.name} has ended with {code}: {self._log.read_text()[-2000:]}")
        self._app = self._sidecar = None

    def ready(self) -> None:
        """Wait until it serves, and others can know that."""
        path = "/health/tasks" if self._kind == "tasks" else "/ready"
        _until(lambda: _answers(f"http://127.0.0.1:{self._admin}{path}") == 200, f"{self.name} is ready")
        if self._kind == "web":
            _until(lambda: '"sent"' in self._read()[self._before :], f"{self.name} has published something")

    def knows_both(self) -> None:
        """Wait until its sidecar has found two instances of ``tasks``."""
        _until(lambda: self._endpoints() == 2, f"{self.name} knows both")

    def _endpoints(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/upstreams/tasks", timeout=PATIENCE) as answer:
            return len(json.load(answer)["endpoints"])

    def kill(self) -> None:
        """Whatever is left."""
        for process in (self._app, self._sidecar):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(PATIENCE)

    def said(self) -> list[dict[str, Any]]:
        """All that its app has printed."""
        return [json.loads(line) for line in self._read().splitlines() if line.startswith("{")]

    def _read(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    def _process(self, command: Sequence[str], apart: bool = False) -> subprocess.Popen[bytes]:
        is_app = command is self._command or apart
        with (self._out if is_app else self._log).open("ab") as out, self._log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log)


@dataclass
class Outcome:
    """What came of it. ``lost``: requests without a 200, and messages that were not confirmed; ``missing``: messages
    that were confirmed and never consumed."""

    order: str
    restarts: int = 0
    requests: int = 0
    messages: int = 0
    lost: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    twice: int = 0
    slowest: float = 0.0

    @property
    def fine(self) -> bool:
        return not self.lost and not self.missing and self.requests > 0 and self.messages > 0


def roll(
    folder: Path,
    orders: Sequence[str],
    consul: int,
    rabbitmq: int,
    rates: Sequence[float],
    rounds: int = 1,
    rest: float = 1.0,
    callers: int = 2,
) -> Outcome:
    """Restart two instances of each workload, one after the other, ``rounds`` times; ``rest`` seconds after each.
    ``orders``: one for all, or that of each instance. ``rates``: requests and messages a second.
    ``callers``: so many instances of ``web``."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [Workload(folder, f"tasks-{n}", "tasks", orders[n % len(orders)], consul, rabbitmq) for n in range(2)]
    each = [rate / callers for rate in rates]
    webs = [
        Workload(folder, f"web-{n}", "web", orders[n % len(orders)], consul, rabbitmq, each) for n in range(callers)
    ]
    found = Outcome(" and ".join(orders))
    try:
        for workload in (*tasks, *webs):
            workload.start()
            workload.ready()
        for web in webs:
            web.knows_both()
        time.sleep(rest)
        for _ in range(rounds):
            for workload in (*tasks, *webs):
                workload.stop()
                workload.start()
                workload.ready()
                for web in webs:
                    web.knows_both()
                found.restarts += 1
                time.sleep(rest)
        for workload in webs:
            workload.stop()
        _count(found, webs, tasks)
        for workload in tasks:
            workload.stop()
    finally:
        for workload in (*webs, *tasks):
            workload.kill()
    return found


def _count(found: Outcome, webs: Sequence[Workload], tasks: Sequence[Workload]) -> None:
    said = [it for web in webs for it in web.said()]
    found.lost = [it for it in said if "failed" in it]
    ends = [it for it in said if it.get("end")]
    found.requests = sum(it["begun"]["requests"] for it in ends)
    found.messages = sum(it["begun"]["messages"] for it in ends)
    found.slowest = max((it["slowest"] for it in ends), default=0.0)
    sent = {it["sent"] for it in said if "sent" in it}
    got: Counter[str] = Counter()

    def all_there() -> bool:
        got.clear()
        got.update(it["got"] for task in tasks for it in task.said() if "got" in it)
        return sent <= got.keys()

    try:
        _until(all_there, "all messages", 30.0)
    except BenchError:
        found.missing = sorted(sent - got.keys())
    found.twice = sum(1 for count in got.values() if count > 1)


def _answers(url: str) -> int:
    """Its status; 0: nobody does."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def _until(what: Any, text: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {text}")
        time.sleep(0.05)
