"""``sidecar rehearse`` as people see it: each kind of difference, what cannot be told, and how far it is."""

from __future__ import annotations

import json
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import rehearse
from sidecar.cli.main import main
from support.fake_admin import fake_admin

SIDE: dict[str, Any] = {
    "admitted": 90, "failed": 1, "retries": 0, "breaker_openings": 0, "rejected": {"rate_limited": 10}, "routes": {},
}  # fmt: skip
LISTENER: dict[str, Any] = {
    "name": "tasks", "requests": 100, "changed": {"rejected": 5, "retried": 0}, "before": SIDE,
    "after": {**SIDE, "admitted": 85, "rejected": {"rate_limited": 10, "circuit_open": 5}, "routes": {"routes[0]": 7}},
}  # fmt: skip
EXAMPLE: dict[str, Any] = {
    "at": "2026-01-01T12:34:56.789Z", "upstream": "tasks", "method": "GET", "path": "/a", "setting": "upstreams.tasks",
    "happened": {"status": 200, "error": None, "attempts": 1},
    "would": {"status": 0, "error": "timeout", "attempts": 3, "route": "routes[0]"},
}  # fmt: skip
FOUND: dict[str, Any] = {
    "decisions": 100, "covered": {"seconds": 90.4}, "agreement": 0.995, "agreement_of": 100,
    "changed": {"rejected": 5, "retried": 0}, "upstreams": [LISTENER], "examples": [EXAMPLE],
    "assumed": ["answers stay"], "not_rehearsed": [{"what": "db", "reason": "it is no HTTP"}],
}  # fmt: skip
SAME: dict[str, Any] = {**FOUND, "changed": {"rejected": 0}, "upstreams": [], "examples": [], "not_rehearsed": []}
FILE = "service: {name: edge}\nupstreams: {tasks: {bind: '127.0.0.1:0', endpoints: ['127.0.0.1:9']}}\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    found = tmp_path / "new.yaml"
    found.write_text(FILE)
    return str(found)


def test_what_would_have_been_different() -> None:
    assert list(rehearse.lines(FOUND)) == [
        "100 requests of the last 90 s; the running settings, rehearsed too, agree with what happened in 99.5% of "
        "100 requests",
        "",
        "tasks: 100 requests; 5 rejected that were admitted",
        "    admitted                               90 → 85       -5",
        "    failed                                  1 → 1",
        "    rejected: rate_limited                 10 → 10",
        "    rejected: circuit_open                  0 → 5        +5",
        "    routes[0]                               0 → 7        +7",
        "",
        "for example",
        "  12:34:56.789  GET /a to tasks: 200 → cut off timeout after 3 tries by routes[0]",
        "                because of upstreams.tasks",
        "",
        "taken for granted",
        "  – answers stay",
        "",
        "not rehearsed",
        "  – db: it is no HTTP",
    ]


def test_nothing_would_have_been() -> None:
    assert list(rehearse.lines(SAME))[1:] == ["nothing would have been different"], "and nothing is taken for granted"
    assert list(rehearse.lines({**SAME, "decisions": 0})) == [
        "nothing has been recorded yet that could be rehearsed"
    ]  # fmt: skip
    calm = {**LISTENER, "name": None, "changed": {}, "after": SIDE}
    told = list(rehearse.lines({**SAME, "upstreams": [calm], "agreement": None}))
    assert told[0] == "100 requests of the last 90 s"
    assert told[-1] == "inbound: 100 requests; nothing would have been different"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (1799, "30 min"), (3600, "hour")]
)
def test_how_long(seconds: float, text: str) -> None:
    told = next(rehearse.lines({**SAME, "covered": {"seconds": seconds}, "agreement": None}))
    assert told == f"100 requests of the last {text}"


def test_an_example_of_the_app_without_a_setting() -> None:
    it = {**EXAMPLE, "upstream": None, "setting": None, "path": "/\x1b[2J"}
    told = list(rehearse.lines({**SAME, "examples": [it]}))
    assert told[-1].startswith("  12:34:56.789  GET /\\x1b[2J to the app: 200 → ")


def test_each_exit_code(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"error": "invalid", "message": "upstreams.tasks.bind: it is taken"}
    for status, answer, code in ((200, FOUND, 1), (200, SAME, 0), (422, refused, 3), (503, refused, 4)):
        with fake_admin({"rehearse": (status, answer)}) as url:
            assert main(["rehearse", file, "--admin", url]) == code
    assert capsys.readouterr().err.count("sidecar rehearse: upstreams.tasks.bind: it is taken") == 2
    with fake_admin({"rehearse": (200, FOUND)}) as url:
        assert main(["rehearse", file, "--admin", url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == FOUND


@pytest.mark.parametrize("answer", [{}, {**FOUND, "changed": None}, {**FOUND, "upstreams": [{}]}, b"[]", b"no"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_another_server(answer: Any, more: tuple[str, ...], file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"rehearse": (200, answer)}) as url:
        assert main(["rehearse", file, "--admin", url, *more]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert "admin API" in said.err


class Terminal(StringIO):
    """Standard error; when it has been told something, ``told`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        count = super().write(text)
        if "42%" in text:
            self.told.set()
        return count


@pytest.mark.parametrize(
    ("state", "shown"),
    [((200, {"share": 0.42}), True), ((200, {}), False), ((200, {"share": "half"}), False), ((500, b""), False)],
)
def test_a_terminal_is_told_how_far_it_is(
    state: tuple[int, Any], shown: bool, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sidecar's answer comes when the state has been asked for, and shown."""
    terminal = Terminal()
    asked = threading.Event()

    def how_far() -> tuple[int, Any]:
        asked.set()
        return state

    def rehearsed() -> tuple[int, Any]:
        assert asked.wait(30)
        assert not shown or terminal.told.wait(30)
        return 200, SAME

    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(rehearse, "_QUIET", 0.001)
    monkeypatch.setattr(rehearse, "_PERIOD", 0.001)
    with fake_admin({"GET /rehearse": how_far, "POST /rehearse": rehearsed}) as url:
        assert main(["rehearse", file, "--admin", url]) == 0
    assert ("\rrehearsing: 42% " in terminal.getvalue()) is shown
    assert terminal.getvalue().endswith("\r                      \r" if shown else "")
    assert shown or terminal.getvalue() == ""
    assert "nothing would have been different" in capsys.readouterr().out
