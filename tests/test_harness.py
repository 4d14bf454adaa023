"""One bad test costs one test, whatever it does; and nothing outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import wait_for

pytestmark = pytest.mark.costly

TESTS = Path(__file__).parent

#: Each writes the process id of what it starts to a file, so that one can look for it.
INNER = """
import asyncio, os, pathlib, signal, socket, subprocess, time
import uvloop

children = []

def start():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path(os.path.basename(__file__) + ".pid").write_text(str(child.pid))
    children.append(child)

def hangs_in_a_loop():
    start()
    async def main():
        await asyncio.Event().wait()
    uvloop.run(main())

def hangs_in_its_clean_up():
    start()
    try:
        time.sleep(600)
    finally:
        time.sleep(601)

def hangs_and_cannot_be_interrupted():
    start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(602)

def leaves_a_socket_open():
    cycle = [socket.socket()]
    cycle.append(cycle)

def kills_its_worker():
    start()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def command(folder: Path, limit: float, **files: str) -> list[str]:
    """A run of pytest with this project's plugins on files with these contents."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(INNER + text)
    plugins = ("xdist", *(f"support.harness.{name}" for name in ("reaper", "scheduler", "time_limit", "garbage")))
    return [
        sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder",
        "-o", f"time_limit={limit}", "-o", "time_limit_exit=4", "-p", "no:cacheprovider",
        *(part for plugin in plugins for part in ("-p", plugin)),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """Without what the outer run's worker is told by pytest-xdist."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def is_gone(file: Path) -> bool:
    """Whether the process whose id is in this file has ended; its parent may not have asked for it."""
    try:
        return Path(f"/proc/{file.read_text()}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return file.exists()


def test_a_bad_test_costs_one_test_and_what_it_started_is_ended(tmp_path: Path) -> None:
    bad = "def test_before(): pass\ndef test_bad(): {}()\ndef test_after(): pass\n"
    files = {
        "a": bad.format("hangs_in_a_loop"),
        "b": bad.format("hangs_in_its_clean_up"),
        "c": bad.format("hangs_and_cannot_be_interrupted"),
        "d": bad.format("leaves_a_socket_open"),
        "e": "def test_bad(): kills_its_worker()\n",  # and is its last
    }
    run = subprocess.run(
        command(tmp_path, 1, **files), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    output = run.stdout + run.stderr
    assert run.returncode == 1, output
    assert "4 failed, 9 passed, 1 error" in run.stdout, output
    for stack in ("await asyncio.Event().wait()", "time.sleep(600)", "in hangs_and_cannot_be_interrupted"):
        assert stack in output, output
    assert "ERROR test_d.py::test_bad" in output
    for name in "abce":
        assert is_gone(tmp_path / f"test_{name}.py.pid")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "test_a.py.pid"
    arguments = command(tmp_path, 600, a="def test_bad(): hangs_in_a_loop()\n", b="def test_good(): pass\n")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    try:
        wait_for(lambda: file.exists() and file.read_text(), "it has started", 60)
        process.send_signal(how)
        process.wait(60)
        wait_for(lambda: is_gone(file), "what it started is gone", 60)
    finally:
        process.kill()
        process.wait()
