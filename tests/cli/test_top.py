"""``sidecar top``: what it shows, and that a terminal is given back as it was."""

from __future__ import annotations

import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.cli import top
from sidecar.cli.admin_client import Admin, CommandError
from sidecar.cli.main import main
from support.fake_admin import fake_admin

FIGURES: dict[str, Any] = {"rate": 2.0, "error_rate": 0.25, "p50_ms": 1.5, "p99_ms": 9.0, "active": 3, "pending": 1}
FOUND: dict[str, Any] = {
    "service": "shop", "phase": "ready", "status": "warning", "inbound": FIGURES,
    "upstreams": {
        "tasks": {**FIGURES, "breaker": {"state": "half_open"}, "status": "warning", "output": "1 of 2\x1b[2J ejected"},
        "db": {**FIGURES, "breaker": None, "status": "healthy", "output": "not shown"},
    },
}  # fmt: skip
MESH: dict[str, Any] = {"services": [], "edges": []}


def events(found: Any) -> tuple[int, bytes]:
    return 200, b"retry: 1000\n\nevent: state\ndata: " + json.dumps(found).encode() + b"\n\n"


def test_one_sidecar() -> None:
    assert top.lines(FOUND, colour=False) == [
        "shop  ready  warning",
        "",
        "UPSTREAM    RATE  ERRORS     P50   P99  ACTIVE  WAITING  BREAKER    HEALTH   WHY",
        "(inbound)  2.0/s  25.0 %  1.5 ms  9 ms       3        1",
        "tasks      2.0/s  25.0 %  1.5 ms  9 ms       3        1  half-open  warning  1 of 2\\x1b[2J ejected",
        "db         2.0/s  25.0 %  1.5 ms  9 ms       3        1  off        failing  25 % fail",
    ]
    alone = top.lines({**FOUND, "inbound": None, "upstreams": {}}, colour=True)
    assert [line for line in alone if "(inbound)" in line] == []


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(top, "PERIOD", 0.0)
    with fake_admin({"events": events(FOUND), "mesh": (200, MESH)}) as url:
        assert main(["top", "--admin", url, "--count", "2"]) == 0
        out = capsys.readouterr().out
        assert out.count("shop  ready  warning") == 2
        assert "\x1b" not in out
        assert main(["top", "--admin", url, "--mesh", "--count", "1"]) == 0
        assert capsys.readouterr().out.startswith("SERVICE")


@pytest.mark.parametrize("answer", [{}, [], {"service": "a", "phase": "b", "status": "c", "upstreams": {"a": {}}}])
def test_another_server(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"events": events(answer), "mesh": (200, {})}) as url:
        assert main(["top", "--admin", url]) == 1
        assert "is not a sidecar's admin API" in capsys.readouterr().err
        assert main(["top", "--admin", url, "--mesh"]) == 1
        assert "is not a sidecar's admin API" in capsys.readouterr().err


def test_a_stream_that_ends_early(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"events": (200, b"retry: 1000\n\n")}) as url:
        assert main(["top", "--admin", url]) == 1
        assert capsys.readouterr().err == "sidecar top: the sidecar has broken off\n"


def test_a_stream_that_breaks_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Answer(BytesIO):
        def readline(self, most: int | None = -1) -> bytes:
            raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(Admin, "answer", lambda *_: Answer())
    assert main(["top"]) == 1
    assert capsys.readouterr().err == "sidecar top: the sidecar has broken off: Connection reset by peer\n"


def test_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(top, "_snapshot", interrupted)
    assert main(["top"]) == 0


# -- in a terminal -----------------------------------------------------------------------------------------------------


class Screen(StringIO):
    """Standard output; ``gone`` from then on."""

    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)


class Terminal:
    """Stands for standard input and output, and for the kernel's modes of them."""

    def __init__(self) -> None:
        self._inside, self._keyboard = os.pipe()
        self.screen = Screen()
        self.modes = ["as it was"]

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._inside

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def shown(self) -> str:
        return self.screen.getvalue()

    def set(self, modes: list[Any]) -> None:
        if self.screen.gone:
            raise termios.error(5, "Input/output error")
        self.modes = modes

    def top(self, *arguments: str) -> int:
        """Run the command in it."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdin", self)
            patched.setattr(sys, "stdout", self.screen)
            patched.setattr(termios, "tcgetattr", lambda stream: self.modes)
            patched.setattr(termios, "tcsetattr", lambda stream, when, modes: self.set(modes))
            patched.setattr(tty, "setcbreak", lambda stream: self.set(["each key at once"]))
            return main(["top", *arguments])

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._keyboard)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield found
    found.close()


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]


def answering(terminal: Terminal, keys: bytes, found: Any = FOUND) -> Callable[[], tuple[int, bytes]]:
    """The sidecar's answer; meanwhile somebody types."""

    def answer() -> tuple[int, bytes]:
        terminal.type(keys)
        return events(found)

    return answer


@pytest.mark.parametrize("key", [b"q", b"xxQ", b"\x04"])
def test_q_ends_it_and_the_terminal_is_as_before(key: bytes, terminal: Terminal) -> None:
    before = (terminal.modes, handlers())
    with fake_admin({"events": answering(terminal, key)}) as url:
        assert terminal.top("--admin", url) == 0
    shown = terminal.shown()
    assert shown.startswith("\x1b[?1049h\x1b[?25l"), "another screen, no cursor"
    assert shown.endswith("\x1b[?25h\x1b[?1049l"), "and back"
    assert "shop  ready  warning\x1b[K" in shown
    assert "q ends" in shown
    assert "\x1b[33mwarning\x1b[0m" in shown
    assert (terminal.modes, handlers()) == before


def test_other_keys_do_not(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is read, then the time until the next look is over; at that one q is typed."""
    looks = iter((b"a", b"q"))
    times = iter((0.0, 0.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(top, "time", SimpleNamespace(monotonic=lambda: next(times), strftime=lambda _: "12:00:00"))
    with fake_admin({"events": lambda: answering(terminal, next(looks))()}) as url:
        assert terminal.top("--admin", url) == 0
    assert terminal.shown().count("12:00:00  q ends") == 2
    assert list(times) == []


def test_without_a_key_it_looks_again(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "PERIOD", 1e-3)
    with fake_admin({"events": events(FOUND)}) as url:
        assert terminal.top("--admin", url, "--count", "3") == 0
    assert terminal.shown().count("q ends") == 3


def test_a_keyboard_that_is_gone_ends_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "read", lambda number, most: b"")
    with fake_admin({"events": answering(terminal, b"x")}) as url:
        assert terminal.top("--admin", url) == 0
    assert terminal.shown().count("q ends") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_terminal_is_as_before(
    number: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (terminal.modes, handlers())
    during: list[Any] = []

    def snapshot(_: object) -> None:
        during.append(terminal.modes)
        signal.raise_signal(number)

    monkeypatch.setattr(top, "_snapshot", snapshot)
    assert terminal.top() == 0
    assert during == [["each key at once"]]
    assert terminal.shown().endswith("\x1b[?25h\x1b[?1049l")
    assert (terminal.modes, handlers()) == before


def test_a_sidecar_that_goes_away_meanwhile(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "PERIOD", 0.0)
    with fake_admin({"events": answering(terminal, b"", {**FOUND, "inbound": None})}) as url:
        looks = iter((True, False))
        snapshot = top._snapshot

        def look(admin: Any) -> Any:
            if next(looks):
                return snapshot(admin)
            raise CommandError("gone")

        monkeypatch.setattr(top, "_snapshot", look)
        assert terminal.top("--admin", url, "--count", "2") == 0
    assert f"{url} does not answer; trying on" in terminal.shown()


def test_a_sidecar_that_was_never_there(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    before = terminal.modes
    with fake_admin({}) as url:
        assert terminal.top("--admin", url) == 1
    assert terminal.modes == before
    assert terminal.shown().endswith("\x1b[?1049l")


def test_what_does_not_fit_is_counted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "5")
    upstreams = {f"up{n}": FOUND["upstreams"]["db"] for n in range(9)}
    with fake_admin({"events": events({**FOUND, "inbound": None, "upstreams": upstreams})}) as url:
        assert terminal.top("--admin", url, "--count", "1") == 0
    shown = terminal.shown()
    assert shown.count("\r\n") == 4
    assert "… 9 more lines" in shown


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with fake_admin({"events": events(FOUND)}) as url:
        assert terminal.top("--admin", url, "--count", "1") == 0
    assert "\x1b[?1049h" not in terminal.shown()


def test_a_terminal_that_is_gone(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its window was closed: nothing can be given back, and nothing is said about that."""

    def hung_up(_: object) -> None:
        terminal.screen.gone = True
        signal.raise_signal(signal.SIGHUP)

    before = handlers()
    monkeypatch.setattr(top, "_snapshot", hung_up)
    assert terminal.top("--count", "1") == 0
    assert handlers() == before
    assert terminal.modes == ["each key at once"]
