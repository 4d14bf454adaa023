"""``sidecar why`` as people see it: the story of a request, the list, and what cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.cli.why import Paint, recent, story
from support.processes import free_port

PLAIN = Paint(colour=False)
EVENTS: list[dict[str, Any]] = [
    {"at_ms": 0.1, "what": "attempt", "endpoint": "10.0.0.7:80", "failure": "connect", "kept": True},
    {
        "at_ms": 1.5,
        "what": "chosen",
        "endpoint": "10.0.0.8:80",
        "candidates": [{"endpoint": "10.0.0.7:80", "weight": 1}],
    },
]  # fmt: skip
TOLD: dict[str, Any] = {
    "request_id": "r1", "cause": "up: 10.0.0.7:80 refused the connection", "setting": "upstreams.up.endpoints",
    "cause_at": "edge", "service": "edge", "direction": "outbound", "upstream": "up", "method": "GET", "path": "/a",
    "status": 502, "error": "connect_failed", "duration_ms": 12.5, "attempts": 2, "began": "2026-01-01T00:00:00.000Z",
    "trace_id": "ab" * 16, "events": EVENTS, "hops": [],
}  # fmt: skip


def test_a_story() -> None:
    lines = story(TOLD, PLAIN)
    assert lines[:5] == [
        "502 connect_failed  GET /a to up, 12.5 ms, 2 tries",
        "request  r1  2026-01-01T00:00:00.000Z",
        "cause    up: 10.0.0.7:80 refused the connection",
        "setting  upstreams.up.endpoints",
        "trace    " + "ab" * 16,
    ]
    assert lines[-3:] == [
        "     0.1 ms  attempt  endpoint 10.0.0.7:80  failure connect  kept yes",
        "     1.5 ms  chosen  endpoint 10.0.0.8:80",
        "             candidates endpoint 10.0.0.7:80, weight 1",
    ]


def test_hops_are_told_apart() -> None:
    hop = {key: TOLD[key] for key in ("service", "direction", "upstream", "status", "error", "cause")}
    silent = {"service": "shop", "at": "10.0.0.9:15000", "problem": "did not answer within 1 s"}
    events = [{**EVENTS[0], "service": "edge"}, {**EVENTS[1], "service": "shop"}]
    lines = story({**TOLD, "hops": [hop, silent], "events": events}, PLAIN)
    assert "  1. edge  502 connect_failed  a request to up: up: 10.0.0.7:80 refused the connection" in lines
    assert "  2. 10.0.0.9:15000  did not answer within 1 s" in lines
    assert any(line.startswith("     1.5 ms  shop  chosen") for line in lines)


def test_the_list() -> None:
    lines = recent({"records": 10, "remembered": 1, "requests": [TOLD]}, PLAIN)
    assert lines[0] == "2026-01-01T00:00:00.000Z  502 connect_failed  r1  GET /a to up, 12.5 ms, 2 tries"
    assert lines[1] == "    up: 10.0.0.7:80 refused the connection"
    assert "records is 0" in recent({"records": 0, "remembered": 0, "requests": []}, PLAIN)[0]
    assert "among the 7" in recent({"records": 9, "remembered": 7, "requests": []}, PLAIN)[0]


def test_nobody_controls_the_terminal() -> None:
    evil = "\x1b[2J\nroot#"
    told = {**TOLD, "cause": evil, "path": evil, "request_id": evil, "setting": None,
            "events": [{"at_ms": 1, "what": evil, evil: evil, "service": evil}]}  # fmt: skip
    text = "".join(story(told, PLAIN))
    assert "\x1b" not in text
    assert "\n" not in text
    assert "no setting would change it" in text


def test_colours() -> None:
    text = "\n".join(story(TOLD, Paint(colour=True)))
    assert "\x1b[31m502 connect_failed\x1b[0m" in text


def test_it_cannot_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "r1", "--admin", f"127.0.0.1:{free_port()}"]) == 1
    assert capsys.readouterr().err.startswith("sidecar why: cannot reach")
