"""The processes of ``sidecar exec``, without any: what the system would do is done by the test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from sidecar.cli import exec as command
from sidecar.cli.exec import NOT_FOUND, NOT_RUN, Processes
from sidecar.cli.main import main

SIDECAR, APP = 101, 102


class Exited(BaseException):
    def __init__(self, code: int) -> None:
        self.code = code


class World:
    """Forks that never become the child, and children that end when the play says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, play: list[list[tuple[int, int]]]) -> None:
        #: What waits to be reaped, each time that is asked: process, exit code.
        self.play = play
        self.starts = True
        self.pids = iter([SIDECAR, APP, 103])
        self.killed: list[tuple[int, int]] = []
        self.ends: list[int] = []
        #: Both ends of all pipes, and what tells them from others that have got the same number since.
        self.pipes: list[tuple[int, int]] = []
        self._pipe = os.pipe
        monkeypatch.setattr(os, "pipe", self.pipe)
        monkeypatch.setattr(os, "fork", self.fork)
        monkeypatch.setattr(os, "waitpid", self.waitpid)
        monkeypatch.setattr(os, "kill", self.kill)
        self.groups: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "setpgid", lambda *which: self.groups.append(which))
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(signal, "set_wakeup_fd", self.wakes_at)
        monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: set())
        self.wakes: list[int] = []

    def wakes_at(self, fd: int, warn_on_full_buffer: bool = True) -> None:
        if fd >= 0:
            self.wakes.append(fd)
            os.write(fd, bytes([signal.SIGCHLD]))

    def pipe(self) -> tuple[int, int]:
        reads, writes = self._pipe()
        self.ends.append(os.dup(writes))
        self.pipes += [(end, os.fstat(end).st_ino) for end in (reads, writes)]
        return reads, writes

    def fork(self) -> int:
        pid = next(self.pids)
        if pid != APP and self.starts:
            os.write(self.ends[-2], b"ready 1.000 1.000\n")  # it says at once that it is ready
        return pid

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        if not self.play:
            raise ChildProcessError
        if not self.play[0]:
            self.play.pop(0)
            os.write(self.wakes[-1], bytes([signal.SIGCHLD]))  # or nobody would ask again
            return 0, 0
        found, code = self.play[0].pop(0)
        return found, code << 8 if code >= 0 else -code

    def kill(self, pid: int, number: int) -> None:
        self.killed.append((pid, number))
        raise ProcessLookupError

    def close(self) -> None:
        for end in self.ends:
            os.close(end)
        for end, which in self.pipes:
            try:
                if os.fstat(end).st_ino == which:
                    os.close(end)
            except OSError:
                pass


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[list[tuple[int, int]]]], World]]:
    made: list[World] = []

    def make(play: list[list[tuple[int, int]]]) -> World:
        made.append(World(monkeypatch, play))
        return made[-1]

    yield make
    monkeypatch.undo()
    for it in made:
        it.close()


Make = Callable[[list[list[tuple[int, int]]]], World]


def processes() -> Processes:
    return Processes(lambda pipes: 0, ["app", "-x"])


def test_the_code_is_the_apps(world: Make) -> None:
    world([[], [(APP, 7)], [(999, 0), (SIDECAR, 0)]])
    assert processes().run() == 7


def test_a_sidecar_that_cannot_start(world: Make) -> None:
    world([[(SIDECAR, 2)]]).starts = False
    assert processes().run() == 2


def test_one_that_dies_is_started_again(
    world: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cli.supervision.AGAIN", 0.0)
    world([[], [(SIDECAR, -9)], [], [(APP, 0)], [(103, 0)]])
    it = processes()
    monkeypatch.setattr(it, "wake_in", lambda seconds: setattr(it, "_wake_at", 1e-9))
    assert it.run() == 0
    assert "the sidecar has ended (by SIGKILL) and is started again" in capsys.readouterr().err


def test_signals_go_where_they_belong(world: Make) -> None:
    found = world([[], [], [(APP, 0)], [(SIDECAR, 0)]])
    it = processes()
    asked = iter([signal.SIGHUP, signal.SIGTERM])
    wait = found.waitpid

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        number = next(asked, None)
        if number is not None:
            os.write(found.wakes[-1], bytes([number]))
        return wait(pid, options)

    os.waitpid = waitpid  # the fixture undoes it
    assert it.run() == 0
    assert (APP, signal.SIGHUP) in found.killed
    assert (SIDECAR, signal.SIGTERM) in found.killed


@pytest.mark.parametrize(
    ("error", "code"), [(FileNotFoundError(2, "No such file"), NOT_FOUND), (PermissionError(13, "denied"), NOT_RUN)]
)
def test_an_app_that_cannot_be_run(
    world: Make, monkeypatch: pytest.MonkeyPatch, error: OSError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    world([])

    def execvp(file: str, arguments: list[str]) -> None:
        assert (file, arguments) == ("app", ["app", "-x"])
        raise error

    monkeypatch.setattr(os, "execvp", execvp)
    assert processes()._become_app() == code
    assert "sidecar exec: app: " in capsys.readouterr().err


def test_the_fork_that_becomes_the_sidecar(world: Make) -> None:
    found = world([])
    given: list[tuple[int, int]] = []

    def serve(pipes: tuple[int, int]) -> int:
        given.append(pipes)
        return 3

    it = Processes(serve, ["app"])
    it._hears, _ = os.pipe()
    it._lifeline, _ = os.pipe()
    assert it._become_sidecar(50, 51) == 3
    assert given == [(50, 51)]
    assert found.groups == [(0, 0)], "a terminal's Ctrl-C passes it by"


@pytest.mark.parametrize(
    ("raised", "code"), [(None, 5), (SystemExit(4), 4), (SystemExit("text"), 1), (RuntimeError("broken"), 1)]
)
def test_a_fork_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def exit(code: int) -> None:
        raise Exited(code)

    def work() -> int:
        if raised is not None:
            raise raised
        return 5

    monkeypatch.setattr(os, "_exit", exit)
    with pytest.raises(Exited) as ended:
        command._end_with(work)
    assert ended.value.code == code
    assert ("RuntimeError: broken" in capsys.readouterr().err) == isinstance(raised, RuntimeError)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run: list[tuple[str, list[str]]] = []

    def execute(path: str, app: list[str]) -> int:
        run.append((path, app))
        return 9

    monkeypatch.setattr(command, "execute", execute)
    assert main(["exec", "a.yaml", "--", "app", "--flag"]) == 9
    assert run == [("a.yaml", ["app", "--flag"])]
    assert main(["exec", "a.yaml", "--"]) == 2
    assert "no app is named" in capsys.readouterr().err
