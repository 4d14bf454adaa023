"""``sidecar mesh``: two tables of who calls whom, the worst first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.cli.mesh import figures, judged, lines
from support.fake_admin import fake_admin

UNKNOWN: dict[str, Any] = {"rate": None, "error_rate": None, "p50_ms": None, "p99_ms": None}


def service(name: str, status: str = "healthy", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "service", "instances": 1, "status": status, "problem": "", **UNKNOWN, **more}


def edge(source: str, target: str, status: str = "healthy", **more: Any) -> dict[str, Any]:
    return {"from": source, "to": target, "protocol": "http", "status": status, "problem": "", **UNKNOWN, **more}


MESH: dict[str, Any] = {
    "seen_by": "shop",
    "services": [
        service("shop", rate=12.0, error_rate=0.0, p50_ms=1.23456, p99_ms=45.0),
        service("tasks", error_rate=0.5, rate=3.0),
        service("model", "not_answering", problem="tasks-1 could not be asked"),
        service("db", "unknown", kind="external", instances=0),
    ],
    "edges": [edge("shop", "tasks", rate=3.0), edge("tasks", "model", "unhealthy", problem="no endpoint")],
}


def test_the_worst_first() -> None:
    told = lines(MESH, colour=False)
    assert told == [
        "SERVICE  INSTANCES    RATE  ERRORS       P50    P99  STATUS     WHY",
        "model            1       -       -         -      -  no answer  tasks-1 could not be asked",
        "tasks            1   3.0/s  50.0 %         -      -  failing    50 % fail",
        "shop             1  12.0/s   0.0 %  1.235 ms  45 ms  healthy",
        "db               -       -       -         -      -  unknown",
        "",
        "FROM   TO     PROTOCOL   RATE  ERRORS  P50  P99  STATUS     WHY",
        "tasks  model  http          -       -    -    -  unhealthy  no endpoint",
        "shop   tasks  http      3.0/s       -    -    -  healthy",
    ]


def test_alone() -> None:
    told = lines({"services": [service("shop")], "edges": [], "problem": "Consul\x1b[2J does not answer"}, colour=True)
    assert "\x1b[32mhealthy\x1b[0m" in told[1]
    assert not any("FROM" in line for line in told)
    assert told[2:4] == ["", "Consul\\x1b[2J does not answer"]
    assert told[-1].startswith("Only this sidecar is seen")


def test_nobody_controls_the_terminal() -> None:
    evil = "\x1b[2J\nroot#"
    told = lines(
        {"services": [service(evil, evil, problem=evil)], "edges": [edge(evil, evil, evil, protocol=evil)]},
        colour=False,
    )
    assert not any(char in line for line in told for char in "\x1b\n")


def test_figures() -> None:
    assert figures(UNKNOWN) == ("-", "-", "-", "-")
    assert figures({"rate": 0.04, "error_rate": 0.125, "p50_ms": 0, "p99_ms": 12345.678}) == (
        "0.0/s", "12.5 %", "0 ms", "1.235e+04 ms",
    )  # fmt: skip


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"mesh": (200, MESH)}) as url:
        assert main(["mesh", "--admin", url]) == 0
        assert capsys.readouterr().out.startswith("SERVICE")
        assert main(["mesh", "--admin", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == MESH


@pytest.mark.parametrize(
    "answer",
    [{}, {"services": [7], "edges": []}, {"services": None, "edges": []}, {"services": [service("a", rate="fast")]},
     {"services": [{**service("a"), "status": {}}], "edges": []},
     {"services": [], "edges": [{}]}, b"[" * 100_000, b"[]"],
)  # fmt: skip
def test_another_server(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"mesh": (200, answer)}) as url:
        assert main(["mesh", "--admin", url]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "is not " in said.err
    assert "admin API" in said.err


def test_it_is_not_let_in(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin({"mesh": (401, {"error": "token_needed", "message": "no"})}) as url:
        assert main(["mesh", "--admin", url]) == 1
    assert capsys.readouterr().err.startswith("sidecar mesh: the admin token is needed")


def test_what_answers_and_is_slow_says_so() -> None:
    it = {"status": "healthy", "error_rate": 0.0, "p99_ms": 1300.0, "protocol": "http"}
    assert judged(it, "") == ("slow", "one in a hundred takes 1.3 s or longer")
    assert judged({**it, "protocol": "tcp"}, "")[0] == "healthy", "a connection lasts as long as its client wants"
    assert judged({**it, "status": "warning"}, "half-open") == ("warning", "half-open")
