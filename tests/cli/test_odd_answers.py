"""Commands that ask a running sidecar, asked at something else: one line, and no traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.cli import why
from sidecar.cli.checklist import finding_lines
from sidecar.cli.main import main
from sidecar.cli.tap import text
from support.fake_admin import fake_admin

DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize("line", [b"{}", b"7", b'{"dropped"', b'{"status": null}', b"[" * 100_000, b"\xff"])
def test_tap(line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"tap?": (200, b"\n" + line + b"\n")}) as url:
        assert main(["tap", "--admin", url]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sidecar tap: ")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 0), (ConnectionResetError, 1)])
def test_tap_is_left(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sidecar.cli.tap._print", leave)
    with fake_admin({"tap?": (200, b"")}) as url:
        assert main(["tap", "--admin", url]) == code
    assert ("has broken off" in capsys.readouterr().err) is (code == 1)


def test_tap_paints() -> None:
    it: dict[str, Any] = {
        "ts": "2026-01-01T12:34:56.789Z", "status": 404, "duration": 0.01, "direction": "outbound", "upstream": "a",
        "method": "GET",
    }  # fmt: skip
    assert text(it, colour=True).startswith("\x1b[33m12:34:56.789")
    assert text({**it, "status": 502, "cause": "connect", "error": "x"}, colour=True).startswith("\x1b[31m")
    assert "\x1b" not in text({**it, "status": 200}, colour=True)
    assert text({"dropped": 3}) == "… 3 more, faster than they could be shown"


@pytest.mark.parametrize("answer", [{}, {"findings": 7}, {"findings": [{}]}, b"[]", DEEP])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_diagnose(answer: Any, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"diagnose": (200, answer)}) as url:
        assert main(["diagnose", "--admin", url, *more]) == 1
    said = capsys.readouterr()
    assert "admin API" in said.out + said.err


def test_diagnose_of_a_result_of_another_version(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"check": "a", "upstream": None, "result": "splendid", "evidence": "b", "step": None}
    with fake_admin({"diagnose": (200, {"service": "a", "id": "b", "well": True, "findings": [finding]})}) as url:
        assert main(["diagnose", "--admin", url]) == 1
    assert "is not a sidecar's admin API" in capsys.readouterr().err


def test_findings_are_painted() -> None:
    assert list(finding_lines("disk", "warn", "full", "", 6, colour=True)) == ["\x1b[33m!\x1b[0m disk    full"]


@pytest.mark.parametrize("answer", [{}, {"requests": [7]}, {"requests": None}, DEEP])
@pytest.mark.parametrize("request_id", [(), ("r1",)])
def test_why(answer: Any, request_id: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"why?": (200, answer), "why/r1": (200, answer)}) as url:
        assert main(["why", *request_id, "--admin", url]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "admin API" in said.err


def test_why_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"why?error=timeout": (200, {"requests": []})}) as url:
        assert main(["why", "--json", "--admin", url, "--error", "timeout"]) == 0
    assert json.loads(capsys.readouterr().out) == {"requests": []}


def test_why_of_rare_things() -> None:
    paint = why.Paint(colour=False)
    told: dict[str, Any] = {
        "request_id": "r1", "cause": "the broker has it", "setting": None, "status": None, "kind": "message",
        "upstream": "rabbitmq", "exchange": "", "routing_key": "tasks", "events_left_out": 4,
        "events": [{"at_ms": 0, "what": "confirmed_late", "queues": ["a", "b"], "more": {"not": "told"}}],
    }  # fmt: skip
    lines = why.story(told, paint)
    assert lines[0] == "---  message to the default exchange tasks to rabbitmq"
    assert lines[-4:] == [
        "     0.0 ms  confirmed late",
        "             queues a",
        "             queues b",
        "             4 more are not kept",
    ]
    colours = why.Paint(colour=True)
    for style, status in ((32, 200), (33, 404), (31, 500)):
        found = why.recent({"requests": [{**told, "began": "", "status": status}], "records": 3}, colours)
        assert f"\x1b[{style}m{status}\x1b[0m" in found[0]


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"health": (200, DEEP)}) as url:
        assert main(["status", "--admin", url]) == 1
    assert "is not a sidecar's admin API" in capsys.readouterr().err
