"""Sidecars, and the tests' small app, as forks of a process that has imported one already: a sidecar costs 0.05 s of
CPU instead of 0.7, and the tests have hundreds of them. What is forked is a process like any other: its own id, memory,
files, signals and end.

Run as a script, this is that process. It is asked over a socket (its descriptor is the only argument) for one process
after the other, and says how each has ended.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

#: What most sidecars import.
IMPORTED = (
    "aiohttp", "uvloop", "sidecar.cli.main", "sidecar.agent.run", "sidecar.agent.lifecycle", "sidecar.agent.admin",
    "sidecar.agent.assembly", "sidecar.filters.order", "sidecar.admin.dashboard", "sidecar.amqp.listener",
    "sidecar.amqp.views.operations", "sidecar.amqp.monitor.watcher", "sidecar.amqp.store_and_forward",
    "sidecar.registry.directory", "sidecar.telemetry.logs",
)  # fmt: skip
#: The app: a file.
APP = str(Path(__file__).with_name("app.py"))
#: Beginnings of variables that an interpreter, or the system's loader, reads at its start and never again.
READ_AT_THE_START = ("PYTHON", "LD_", "MALLOC_", "LC_", "LANG")
_LARGEST = 1 << 20


class Forked:
    """A process of the nursery, as the tests see it: the part of :class:`subprocess.Popen` that they use."""

    def __init__(self, nursery: Nursery, pid: int, args: list[str]) -> None:
        self._nursery = nursery
        self.pid = pid
        self.args = args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or less than 0: the signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ended(self.pid, 0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended."""
        if self.returncode is None:
            self.returncode = self._nursery.ended(self.pid, timeout)
            if self.returncode is None:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, and what is known of those that it has forked."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Not the folder of this file among the first to import from: there are namesakes of the standard library in it.
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        with theirs:
            self.popen = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/")
        self._lock = threading.Lock()
        self._pids: list[int] = []
        self._ended: dict[int, int] = {}

    def fork(self, args: list[str], output: int, cwd: str, env: Mapping[str, str]) -> Forked:
        """Start ``python`` with these arguments, as far as it :func:`fosters` them; what it writes goes to that
        descriptor."""
        question = json.dumps({"args": args, "cwd": cwd, "env": dict(env)}).encode()
        with self._lock:
            socket.send_fds(self._socket, [question], [output])
            while not self._pids:
                self._hear(None)
            return Forked(self, self._pids.pop(), args)

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """How it has ended, once it has, within that many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                while self._hear(0):
                    pass
                if pid in self._ended:
                    return self._ended.pop(pid)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return None
            select.select([self._socket], [], [], 0.1 if left is None else min(left, 0.1))  # another thread may hear it

    def _hear(self, timeout: float | None) -> bool:
        """Take one answer, if there is one in time."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return False
        answer = self._socket.recv(_LARGEST)
        assert answer, f"the nursery has ended: {self.popen.wait()}"
        pid, status = json.loads(answer)
        if status is None:
            self._pids.append(pid)
        else:
            self._ended[pid] = os.waitstatus_to_exitcode(status)
        return True

    def close(self) -> None:
        """It ends when nobody is there to ask it."""
        self._socket.close()
        self.popen.wait()


@cache
def nursery() -> Nursery:
    """That of this process."""
    return Nursery()


def leave() -> None:
    """At the end of the run: it ends too, if there is one."""
    if nursery.cache_info().currsize:
        nursery().close()
        nursery.cache_clear()


def _read_at_the_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in env.items() if name.startswith(READ_AT_THE_START)}


_OURS = _read_at_the_start(os.environ)


def fosters(arguments: list[str], env: Mapping[str, str]) -> bool:
    """Whether what these arguments start can be forked: ``python -m sidecar`` or the tests' app, in an environment that
    makes no other interpreter of it; but not ``exec``, which forks before it imports. ``SIDECAR_THOROUGH=1`` has
    everything started as the system does it."""
    thorough = os.environ.get("SIDECAR_THOROUGH") == "1"
    python, *rest = arguments
    ordinary = rest[:1] == [APP] or (rest[:2] == ["-m", "sidecar"] and rest[2:3] != ["exec"])
    return python == sys.executable and ordinary and not thorough and _read_at_the_start(env) == _OURS


# -- the process that forks --------------------------------------------------------------------------------------------


def _serve(asked: socket.socket) -> list[str] | None:
    """Fork until nobody asks any more; in each fork, return what it was asked to do."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    both: list[socket.socket | int] = [asked, woken]
    while True:
        ready = select.select(both, [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _report(asked)
        if asked in ready:
            question, descriptors, _, _ = socket.recv_fds(asked, _LARGEST, 1)
            if not question:
                return None
            pid = os.fork()
            if not pid:
                os.close(wake)
                os.close(woken)
                asked.close()
                return _born(json.loads(question), descriptors[0])
            os.close(descriptors[0])
            asked.send(json.dumps([pid, None]).encode())


def _report(asked: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        asked.send(json.dumps([pid, status]).encode())


def _born(question: Any, output: int) -> list[str]:
    """A process for itself, from here on."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update(question["env"])
    arguments: list[str] = question["args"]
    return arguments


def _run(arguments: list[str]) -> int:
    """What ``python`` does with these."""
    if arguments[0] == APP:
        sys.argv[:] = arguments
        runpy.run_path(APP, run_name="__main__")
        return 0
    from sidecar.cli.main import main

    sys.argv[1:] = arguments[2:]
    return main()


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but leave what is in memory to the system: to take everything apart, a fork has to
    copy it all first, which takes three times as long as its start."""
    vars(threading)["_shutdown"]()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as an interpreter has it
    os._exit(code)


if __name__ == "__main__":
    import importlib

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who runs the tests, and this ends with them
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        try:
            code = _run(found)
        except SystemExit as ended:
            if not isinstance(ended.code, int):
                raise
            code = ended.code
        _end(code)
