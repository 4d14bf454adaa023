"""Signals at any time of a sidecar's life: before its handlers stand, while it serves, as the first process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from support.patience import PATIENCE
from support.processes import Process, Sidecar, ending, missing, wait_for

CONFIG = {"service": {"name": "web"}, "admin": {"bind": "127.0.0.1:0"}}


class Starting(Process):
    """``sidecar run`` that has begun to read its configuration, and waits for the rest of it."""

    def __init__(self, folder: Path, *before: str) -> None:
        self.file = folder / "sidecar.yaml"
        os.mkfifo(self.file)
        super().__init__([*before, sys.executable, "-m", "sidecar", "run", str(self.file)], folder / "sidecar.log")
        self._pipe = self.file.open("w")  # as soon as somebody reads
        self.file.unlink()
        self.file.write_text(yaml.safe_dump(CONFIG))

    def go_on(self) -> None:
        self._pipe.write(yaml.safe_dump(CONFIG))
        self._pipe.close()


@contextmanager
def starting(folder: Path, *before: str) -> Iterator[Starting]:
    with ending(Starting(folder, *before)) as (process,):
        assert isinstance(process, Starting)
        yield process


def test_what_comes_before_the_handlers_is_acted_on_when_they_stand(tmp_path: Path) -> None:
    with starting(tmp_path) as process:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGHUP):
            process.popen.send_signal(number)
        process.go_on()
        wait_for(lambda: '"reloaded"' in process.output(), "it is ready, and has read its file again")
        wait_for(lambda: "SIGUSR1 does nothing" in process.output(), process.output)
        wait_for(lambda: "SIGUSR2 does nothing" in process.output(), process.output)
        assert process.terminate() == 0
        assert process.output().count('"reloaded"') == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_ends_it_ends_it_before_it_is_ready(number: signal.Signals, tmp_path: Path) -> None:
    with starting(tmp_path) as process:
        process.popen.send_signal(number)
        process.go_on()
        assert process.popen.wait(60) == 0
        assert '"ready"' not in process.output()


def test_those_that_mean_nothing_do_nothing(tmp_path: Path) -> None:
    with ending(Sidecar(tmp_path, CONFIG)) as (process,):
        assert isinstance(process, Sidecar)
        process.ready()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            process.popen.send_signal(number)
        wait_for(lambda: "SIGUSR1 does" in process.output() and "SIGUSR2 does" in process.output(), "both are told")
        assert process.terminate() == 0


def test_the_first_process_of_a_container_hears_of_them_too(tmp_path: Path) -> None:
    """The kernel gives process 1 only what it has handlers for, or holds back."""
    unshare = [shutil.which("unshare") or missing("there is no unshare: install the package util-linux")]
    unshare += ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("processes may not have a namespace of their own here")
    with starting(tmp_path, *unshare) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(int(children.read_text()), signal.SIGTERM)
        process.go_on()
        assert process.popen.wait(60) == 0


#: A sidecar with a thread that holds no signals back, as those of libraries are; its last moment lasts until told. A
#: handler would be given up for the default soon after, by the interpreter.
WITH_A_THREAD = """
import signal, sys, threading, time
from sidecar.cli.main import main
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
code = main()
print("over", *(signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), flush=True)
sys.stdin.read()
raise SystemExit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_comes_at_the_very_end_is_no_death_by_it(number: signal.Signals, tmp_path: Path) -> None:
    """An orchestrator tells a sidecar to end that leaves by itself just then."""
    file, log = tmp_path / "sidecar.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump(CONFIG))
    with log.open("wb") as output:
        command = [sys.executable, "-c", WITH_A_THREAD, "run", str(file)]
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=tmp_path)
    try:
        wait_for(lambda: '"ready"' in log.read_text(), log.read_text)
        popen.terminate()
        wait_for(lambda: "over SIG_IGN SIG_IGN SIG_IGN" in log.read_text(), log.read_text, 10)
        popen.send_signal(number)
        popen.communicate(timeout=PATIENCE)
        assert popen.returncode == 0, log.read_text()
    finally:
        popen.kill()
        popen.wait()
