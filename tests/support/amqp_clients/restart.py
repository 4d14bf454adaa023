"""A whole Celery site on one virtual host of a broker: two workers (a classic queue, a quorum queue), beat inside
the first, Flower and a user (:mod:`restart_work`), each a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from support.patience import PATIENCE
from support.processes import Process, free_port, get, missing, wait_for

HERE = Path(__file__).parent
WORKERS = ("classic", "quorum")


class CeleryProcess(Process):
    """``celery -A restart_tasks`` with these arguments."""

    def __init__(self, site: Site, name: str, *arguments: str, **env: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "restart_tasks", *arguments]
        super().__init__(command, site.folder / f"{name}.log", site.env | env)

    def says(self, text: str) -> None:
        wait_for(lambda: text in self.output() or self.popen.poll() is not None, f"{self.log.name}: {text}")
        assert self.popen.poll() is None, self.output()

    def quit(self) -> None:
        """A worker's children end with it, and nobody waits for what they do."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGQUIT)

    def close(self) -> None:
        self.quit()
        try:
            self.popen.wait(PATIENCE)
        finally:
            super().close()


@dataclass
class Run:
    """One run of a task: when it began, Unix time."""

    task: str
    what: str
    at: float


class Site:
    """Its processes begin now and are ended with it; :meth:`ready` waits for them."""

    def __init__(self, folder: Path, url: str, *, confirm: bool) -> None:
        if find_spec("flower") is None:
            missing("flower is not here: install this project with its extra dev again")
        folder.mkdir()
        self.folder = folder
        self.env = {
            "BROKER": url,
            "FOLDER": str(folder),
            "CONFIRM": str(int(confirm)),
            "PYTHONPATH": str(HERE),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            "FLOWER_UNAUTHENTICATED_API": "1",
        }
        self._flower_port = free_port()
        self.workers: list[CeleryProcess] = []
        beat = ("-B", "-s", str(folder / "beat.db"))
        with ExitStack() as stack:
            for name in WORKERS:
                more = beat if name == WORKERS[0] else ()
                worker = ("worker", "-n", f"{name}@here", "-c", "3", "-E", "-l", "info", *more)
                self.workers.append(CeleryProcess(self, name, *worker, QUEUE=name))
                stack.callback(self.workers[-1].close)
            flower = ("flower", "--address=127.0.0.1", f"--port={self._flower_port}")
            self.flower = CeleryProcess(self, "flower", *flower)
            stack.callback(self.flower.close)
            self.user = User(self)
            stack.callback(self.user.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """All at once."""
        for process in (*self.workers, self.flower):
            process.quit()
        self._stack.close()

    def ready(self) -> Self:
        for name, worker in zip(WORKERS, self.workers, strict=True):
            worker.says(f"{name}@here ready")
        wait_for(self.ticks, "beat sends")
        return self

    def runs(self) -> list[Run]:
        """All runs of tasks so far."""
        file = self.folder / "runs"
        found = []
        for line in file.read_text().splitlines() if file.exists() else ():
            task, what, at = line.split()
            found.append(Run(task, what, float(at)))
        return found

    def counts(self) -> Counter[str]:
        """How often each task has run."""
        return Counter(run.task for run in self.runs())

    def worker_lines(self, task: str) -> list[str]:
        """What the workers have written about a task."""
        return [line for worker in self.workers for line in worker.output().splitlines() if task in line]

    def open_gate(self, name: str) -> None:
        (self.folder / name).touch()

    def ticks(self) -> list[str]:
        """The tasks that beat has sent."""
        file = self.folder / "ticks"
        return file.read_text().split() if file.exists() else []

    def online(self) -> dict[str, bool]:
        """The workers, as Flower sees them."""
        status, body = get(f"http://127.0.0.1:{self._flower_port}/api/workers?status=1")
        return body if status == 200 else {}

    def seen_by_flower(self, task: str) -> str | None:
        """The state of a task that Flower has been told of by the workers' events."""
        status, body = get(f"http://127.0.0.1:{self._flower_port}/api/task/info/{quote(task)}")
        return str(body["state"]) if status == 200 else None


class User:
    """``restart_work.py``, which is told what to do word by word."""

    def __init__(self, site: Site) -> None:
        self.log = site.folder / "user.log"
        with self.log.open("ab") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, str(HERE / "restart_work.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=site.folder,
                env={**os.environ, **site.env},
            )  # fmt: skip

    def tell(self, word: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(word + "\n")
        self.popen.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it has to say to the word that it was told: it gives up by itself when it waits for too long."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, self.log.read_text()
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(PATIENCE)
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream is not None
            stream.close()
