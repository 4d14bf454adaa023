"""Clients that do their work in processes of their own and say what was wrong with each piece of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from support.patience import PATIENCE
from support.processes import ROOT, Process, missing, wait_for

HERE = Path(__file__).parent


def start_node(port: int, *arguments: str) -> subprocess.Popen[str]:
    """``amqplib.cjs`` against that port; see there for its arguments."""
    node = shutil.which("node") or missing("there is no Node.js: install the package nodejs")
    modules = ROOT / ".cache" / "node" / "node_modules"
    if not (modules / "amqplib").exists():
        missing("npm's amqplib is not here: run scripts/ensure-amqplib")
    return _start([node, str(HERE / "amqplib.cjs"), str(port), *arguments], {"NODE_PATH": str(modules)})


def start_celery(port: int, *arguments: str) -> subprocess.Popen[str]:
    """``celery_work.py`` against that port, where a :class:`CeleryWorker` must be too."""
    return _start([sys.executable, str(HERE / "celery_work.py"), *arguments], _celery(port))


class CeleryWorker(Process):
    """``celery worker`` for ``tasks.py`` as it comes, with one process that works."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1", "-l", "info", "-n", "w1@here"]
        super().__init__(command, folder / "worker.log", _celery(port))

    def ready(self) -> CeleryWorker:
        wait_for(lambda: "w1@here ready" in self.output() or self.popen.poll() is not None, "the worker is ready")
        assert self.popen.poll() is None, self.output()
        return self

    def trouble(self) -> list[str]:
        """What it has to complain about its connections."""
        return [line for line in self.output().splitlines() if "CRITICAL" in line or "Connection" in line]

    def close(self) -> None:
        """SIGQUIT, which ends its children too; it does not wait for what they do."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGQUIT)
            try:
                self.popen.wait(60)
            finally:
                super().close()


def _celery(port: int) -> dict[str, str]:
    return {
        "BROKER": f"amqp://guest:guest@127.0.0.1:{port}//",
        "C_FORCE_ROOT": "1",
        "PYTHONPATH": str(HERE),
        "PYTHONWARNINGS": "ignore",
    }


def _start(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done_by(process: subprocess.Popen[str], seconds: float = PATIENCE) -> dict[str, str | None]:
    """What such a process did, and what was wrong with each piece of work."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    found: dict[str, str | None] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            found[entry["name"]] = entry["problem"]
        else:
            found["output"] = (found.get("output") or "") + line + "\n"
    if process.returncode != 0:
        found["exit code"] = str(process.returncode)
    return found


def problems(done: dict[str, str | None]) -> dict[str, str]:
    """Only what was wrong."""
    return {name: problem for name, problem in done.items() if problem is not None}
