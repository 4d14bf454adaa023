"""How the command line begins and ends in this process: signals, closed files, broken pipes."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from sidecar.cli import main as cli
from sidecar.cli.main import main


def raising(error: BaseException) -> object:
    def run(*_: object, **__: object) -> int:
        raise error

    return run


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.cli.status.show_status", raising(KeyboardInterrupt()))
    assert main(["status"]) == 130


def test_a_reader_that_has_seen_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[tuple[str, int]] = []

    def remember(source: int, target: int) -> None:
        put.append((os.readlink(f"/proc/self/fd/{source}"), target))
        os.close(source)

    monkeypatch.setattr("sidecar.cli.status.show_status", raising(BrokenPipeError()))
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup2", remember)
        code = main(["status"])
    assert code == 0
    assert put == [("/dev/null", 1)]


def test_without_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.cli.status.show_status", lambda url: 0)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        code = main(["status"])
    assert code == 0


def test_closed_files_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the first socket would be one of them."""
    opened: list[tuple[str, int]] = []

    def look(number: int) -> None:
        if number == 1:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def remember(path: str, flags: int) -> int:
        opened.append((path, flags))
        return 1

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", look)
        patched.setattr(os, "open", remember)
        cli._fill_standard_files()
    assert opened == [(os.devnull, os.O_RDWR)]


def test_run_holds_signals_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def run(path: str) -> int:
        done.append(path)
        return 7

    monkeypatch.setattr("sidecar.agent.signals.hold", lambda: done.append("held"))
    monkeypatch.setattr("sidecar.agent.run.run", run)
    monkeypatch.setattr(sys, "argv", ["sidecar", "run", "a.yaml"])
    assert main() == 7
    assert main(["run", "b.yaml"]) == 7
    assert done == ["held", "a.yaml", "b.yaml"], "only what the process was started with"


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.demo.run_demo", lambda *, serve: 5 if serve else 6)
    assert main(["demo", "--serve"]) == 5
    assert main(["demo"]) == 6


@pytest.mark.parametrize("kind", ["--text", "--markdown"])
def test_schema_to_read(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    out = capsys.readouterr().out
    assert "upstreams" in out
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_a_file_of_mistakes_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There are more than are told."""
    file = tmp_path / "sidecar.yaml"
    file.write_text("service: {name: web}\n" + "".join(f"wrong{n}: 1\n" for n in range(500)))
    assert main(["check", "--json", str(file)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found[-1]["message"] == f"and more; only the first {len(found) - 1} problems are shown"
