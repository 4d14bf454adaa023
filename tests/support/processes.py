"""Real processes for acceptance tests: sidecars and small apps, started, watched, and ended by their process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
import yaml

from support.nursery import APP, Forked, fosters, nursery
from support.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


class _Ports:
    """Free ports for servers that a test starts a moment later, perhaps more than once. They are below the range from
    which the system takes the ports of outgoing connections, and each process has a block of its own: nobody can be
    there first. The block is its process's for as long as a socket is bound to its first port."""

    FIRST, LAST, SIZE = 16_000, 20_000, 200

    def __init__(self) -> None:
        self._claim: socket.socket | None = None
        self._block = range(0)
        self._next = 0

    def take(self) -> int:
        if self._claim is None:
            self._claim_block()
        for _ in self._block:
            self._next = self._next % (self.SIZE - 1) + 1
            port = self._block[self._next]
            found = _bound(port)
            if found is not None:
                found.close()
                return port
        raise AssertionError("all ports are in use")

    def _claim_block(self) -> None:
        for first in range(self.FIRST, self.LAST, self.SIZE):
            self._claim = _bound(first)
            if self._claim is not None:
                self._block = range(first, first + self.SIZE)
                return
        raise AssertionError("too many tests at once: all blocks of ports are taken")


def _bound(port: int) -> socket.socket | None:
    """A socket with that port, if it is free."""
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return None
    return sock


_PORTS = _Ports()


def missing(text: str) -> NoReturn:
    """A server is not installed: skip the test; in CI fail it, because there nothing may be left out silently."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """A port that nobody uses, and that no other test will be given soon."""
    return _PORTS.take()


def wait_for(what: Callable[[], Any], text: str | Callable[[], str], seconds: float = PATIENCE) -> Any:
    """Ask ``what`` until it says something true, and return that; fail with ``text``, or what that says then, when it
    does not in time."""
    began = time.monotonic()
    while True:
        found = what()
        if found:
            return found
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds} s: {text if isinstance(text, str) else text()}")
        time.sleep(min(max(waited / 10, 0.01), 0.1))  # who waits for long asks less often


def get(url: str, timeout: float = PATIENCE) -> tuple[int, Any]:
    """Status and body (parsed if it is JSON) of a GET; (0, text) when there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, _body(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _body(error.read())
    except OSError as error:
        return 0, str(error)


def _body(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


class Process:
    """A child whose output goes to a file, so that it can never block on a full pipe. It runs in the file's folder, not
    in this project's: so ``python -m sidecar`` is what is installed, which may be a compiled build."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        whole = {**os.environ, **(env or {})}
        self.popen: subprocess.Popen[bytes] | Forked
        with log.open("ab") as out:
            if fosters(arguments, whole):
                self.popen = nursery().fork(arguments[1:], out.fileno(), str(log.parent), whole)
            else:
                self.popen = subprocess.Popen(
                    arguments, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=log.parent, env=whole
                )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self) -> Self:
        """Wait until it serves."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.popen.kill()
        self.popen.wait(PATIENCE)

    def terminate(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, and the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.kill()


class Sidecar(Process):
    """``sidecar run`` with a configuration given as a dictionary. Every bind may have port 0; the ports that were
    chosen are read from the log line that says "ready"."""

    def __init__(
        self, folder: Path, config: dict[str, Any], name: str = "sidecar", env: dict[str, str] | None = None
    ) -> None:
        config = {"admin": {"bind": "127.0.0.1:0"}, **config}
        self.file = folder / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(config))
        super().__init__([sys.executable, "-m", "sidecar", "run", str(self.file)], folder / f"{name}.log", env)
        self._ready: dict[str, Any] = {}

    def ready(self, seconds: float = PATIENCE) -> Self:
        """Wait for the line that says so."""

        def line() -> dict[str, Any] | None:
            if self.popen.poll() is not None:
                raise AssertionError(f"the sidecar has ended:\n{self.output()}")
            for text in self.output().splitlines():
                if '"ready"' in text:
                    found: dict[str, Any] = json.loads(text)
                    return found
            return None

        self._ready = wait_for(line, lambda: f"ready:\n{self.output()}", seconds)
        return self

    @property
    def seconds_to_ready(self) -> float:
        """As the sidecar itself measured it."""
        return float(self._ready["seconds"])

    def port(self, name: str) -> int:
        """The port of a listener."""
        return int(self._ready["listeners"][name].rpartition(":")[2])

    @property
    def admin(self) -> str:
        """The admin API's URL."""
        return f"http://{self._ready['admin']}"

    @property
    def probes(self) -> str:
        """Where the listener for machines is."""
        return str(self._ready["probes"])

    def rss(self) -> int:
        """Resident memory, bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class App(Process):
    """``tests/support/app.py``: answers with its name; see there for its paths."""

    def __init__(self, folder: Path, name: str, port: int | None = None, work: int = 0) -> None:
        self.name = name
        self.port = port or free_port()
        super().__init__([sys.executable, APP, name, str(self.port), str(work)], folder / f"{name}.log")

    def ready(self) -> Self:
        wait_for(lambda: get(f"http://127.0.0.1:{self.port}/health")[0] == 200, f"{self.name} answers")
        return self


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output, errors included, of ``sidecar`` with these arguments."""
    it = Process([sys.executable, "-m", "sidecar", *arguments], folder / "command.log")
    try:
        code = it.popen.wait(PATIENCE)
        found = it.output()
    finally:
        it.close()
    it.log.unlink()
    return code, found


@contextmanager
def ending(*processes: Process) -> Iterator[list[Process]]:
    """Whatever is in the list at the end, or comes into it meanwhile, is ended."""
    all_of_them = list(processes)
    try:
        yield all_of_them
    finally:
        for process in reversed(all_of_them):
            process.close()
