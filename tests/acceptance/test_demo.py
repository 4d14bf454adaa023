"""The demo as a person or a CI job starts it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import ROOT, Process, get, wait_for


def children_of(pid: int) -> list[int]:
    """The process ids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.costly
def test_it_tells_its_story_and_ends(tmp_path: Path) -> None:
    began = time.monotonic()
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "sidecar", "demo"], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert time.monotonic() - began < 110
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    assert "Summary" in run.stdout
    assert "What to try next" in run.stdout
    for told in (
        "tasks-2: out of the rotation after",
        "tasks-2: found, and answering again",
        "model: the breaker opened after",
        "model: the breaker closed",
        "calls refused at once",
    ):
        assert told in run.stdout
    assert "  NO " not in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.costly
def test_ctrl_c_gives_the_terminal_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TMPDIR": str(tmp_path), "TERM": "xterm"}
    demo = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "demo"], cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()
    children: list[int] = []
    try:
        deadline = time.monotonic() + 90
        while b"Steady traffic" not in seen:
            chunk = _read(ours)
            assert chunk, f"the demo has ended: {seen.decode(errors='replace')}"
            assert time.monotonic() < deadline, seen.decode(errors="replace")
            seen += chunk
        children = children_of(demo.pid)
        assert len(children) == 10
        demo.send_signal(signal.SIGINT)
        while chunk := _read(ours):
            seen += chunk
        assert demo.wait(60) == 130
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        os.close(ours)
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert not any(alive(child) for child in children)
    assert list(tmp_path.iterdir()) == []


def _read(descriptor: int) -> bytes:
    """What there is to read; nothing once the other side is closed."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_a_mesh_to_play_with(tmp_path: Path) -> None:
    demo = Process(
        [sys.executable, "-m", "sidecar", "demo", "--serve"], tmp_path / "log", env={"TMPDIR": str(tmp_path)}
    )
    try:
        wait_for(lambda: "Ctrl-C ends everything." in demo.output(), "the addresses are printed")
        children = children_of(demo.pid)
        words = demo.output().split()
        [tasks] = [word for word in words if word.endswith("/tasks")]
        status, _ = get(tasks)
        assert status == 200
        assert demo.terminate() == 0
    finally:
        demo.close()
    assert not any(alive(child) for child in children)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
