"""Ends what a run of the tests has started, whoever is killed.

Every process that is started inherits a mark in its environment, whatever becomes of its parents, its session and its
process group. A process beside the run (this file as a script) sees when the run has ended, however it did, and
kills what has its mark and is still there. A worker's own processes go when the worker goes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

VARIABLE = "SIDECAR_TESTS_MARK"
#: Seconds for what is killed to be gone.
GONE = 10.0

_numbers = count()
_watchdog: subprocess.Popen[bytes] | None = None


def pytest_configure() -> None:
    """Mark what this process starts from here on; the workers of pytest-xdist are among it."""
    global _watchdog
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        os.environ[VARIABLE] = f"{os.environ[VARIABLE]}.{worker}"
        return
    before = os.environ.get(VARIABLE)
    mark = f"{before + '.' if before else ''}{os.getpid()}-{time.time_ns()}"
    _watchdog = subprocess.Popen(
        [sys.executable, "-IS", __file__, mark],
        stdin=subprocess.PIPE,
        start_new_session=True,  # nothing that is sent to the run's process group is for it
        env={key: value for key, value in os.environ.items() if key != VARIABLE},
    )
    os.environ[VARIABLE] = mark


def pytest_unconfigure() -> None:
    """Wait until nothing is left."""
    if _watchdog is not None and _watchdog.stdin is not None:
        _watchdog.stdin.close()
        _watchdog.wait(2 * GONE)


@contextmanager
def marking() -> Iterator[str]:
    """What is started meanwhile has a mark of its own, which this gives."""
    before = os.environ[VARIABLE]
    mark = os.environ[VARIABLE] = f"{before}.{next(_numbers)}"
    try:
        yield mark
    finally:
        os.environ[VARIABLE] = before


def end(mark: str) -> list[str]:
    """Kill what has this mark, or one that goes on where this ends; returns its command lines."""
    commands: dict[int, str] = {}
    deadline = time.monotonic() + GONE
    while (found := _marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            try:
                commands[pid] = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # gone meanwhile
        time.sleep(0.02)  # what they were just starting is found the next time
    return list(commands.values())


def _marked(mark: str) -> list[int]:
    whole = f"{VARIABLE}={mark}".encode()
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        try:
            variables = _read(pid, "environ").split(b"\0")
        except OSError:
            continue  # gone, or somebody else's
        if pid != os.getpid() and any(it == whole or it.startswith(whole + b".") for it in variables):
            found.append(pid)
    return found


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the run has ended
    for line in end(sys.argv[1]):
        print(f"left by the tests, and ended: {line[:200]}", file=sys.stderr)
