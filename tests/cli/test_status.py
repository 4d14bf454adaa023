from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.cli.status import show_status, size
from support.fake_admin import fake_admin
from support.processes import ROOT, Sidecar, free_port

UPSTREAM: dict[str, Any] = {
    "name": "tasks",
    "health": "warning",
    "breaker": {"state": "half_open"},
    "endpoints": [
        {"address": "10.0.0.1:80", "id": "tasks-1", "weight": 10, "state": "healthy", "ejected": False, "active": 3},
        {"address": "[::1]:80", "id": "", "weight": 1, "state": "healthy", "ejected": True, "active": 0},
    ],
    "stats": {
        "requests": {"200": 90, "404": 5, "502": 4, "503": 3},
        "active": 7,
        "retries": {"connect": 2, "503": 1},
        "p50_ms": 1.26,
        "p99_ms": 210.7,
        "queue": None,
    },
}


AMQP: dict[str, Any] = {
    "name": "rabbitmq",
    "blocked": True,
    "connections": 12,
    "detached": 0,
    "spool": None,
    "channels": 30,
    "consumers": 4,
    "unacked": 17,
    "stalled": 2,
    "held": {"messages": 5, "bytes": 1280, "waiting_for": [{"what": "queue tasks", "messages": 5}]},
    "exchanges": [{"published": 40}, {"published": 2}],
    "queues": [
        {"vhost": "/", "queue": "tasks", "depth": 12, "low": 8, "high": 10, "consumers": 1, "full": True,
         "problem": ""},
        {"vhost": "/", "queue": "calm", "depth": 0, "low": 8, "high": 10, "consumers": 0, "full": False, "problem": ""},
        {"vhost": "/", "queue": "gone", "depth": None, "low": 8, "high": 10, "consumers": None, "full": False,
         "problem": "no such queue"},
    ],
}  # fmt: skip


def pages(**changes: tuple[int, Any]) -> dict[str, tuple[int, Any]]:
    """What a well sidecar answers, with some of it changed."""
    health = {
        "status": "warning",
        "service": "web",
        "id": "web-1",
        "phase": "ready",
        "app": {"status": "healthy", "output": "GET /health: 200"},
        "registry": {"url": "consul://127.0.0.1:8500", "up": False, "age": 2.5},
    }
    well: dict[str, tuple[int, Any]] = {
        "health": (200, health),
        "ready": (200, {"ready": True, "phase": "ready"}),
        "upstreams": (200, {"upstreams": [UPSTREAM]}),
    }
    return well | changes


def test_the_admin_api_may_be_named_without_a_scheme_and_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def remember(url: str) -> int:
        asked.append(url)
        return 0

    monkeypatch.delenv("SIDECAR_ADMIN", raising=False)
    monkeypatch.setattr("sidecar.cli.status.show_status", remember)
    assert main(["status"]) == 0
    assert main(["status", "--admin", "10.0.0.1:15000"]) == 0
    monkeypatch.setenv("SIDECAR_ADMIN", "http://10.0.0.2:1")
    assert main(["status"]) == 0
    assert main(["status", "--admin", "[::1]:15000"]) == 0
    assert asked == ["http://127.0.0.1:15000", "http://10.0.0.1:15000", "http://10.0.0.2:1", "http://[::1]:15000"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin(pages()) as url:
        assert show_status(url + "/") == 0
    assert capsys.readouterr().out == (
        "service   web  web-1\n"
        "phase     ready\n"
        "health    warning\n"
        "app       healthy  GET /health: 200\n"
        "registry  consul://127.0.0.1:8500, down\n"
        "\n"
        "UPSTREAM  HEALTH   BREAKER    ACTIVE  REQUESTS  ERRORS  RETRIES     P50     P99\n"
        "tasks     warning  half-open       7       102       7        3  1.3 ms  211 ms\n"
        "\n"
        "UPSTREAM  ENDPOINT     ID       STATE    WEIGHT  ACTIVE\n"
        "tasks     10.0.0.1:80  tasks-1  healthy      10       3\n"
        "tasks     [::1]:80     -        ejected       1       0\n"
    )


def test_an_endpoint_that_has_failed_says_how_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"at": "2026-01-02T03:04:05.678Z", "kind": "refused", "text": "connection refused"}
    endpoints = [UPSTREAM["endpoints"][0], UPSTREAM["endpoints"][1] | {"last_error": error}]
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"endpoints": endpoints}]}))) as url:
        assert show_status(url) == 0
    table = capsys.readouterr().out.partition("ENDPOINT")[2].splitlines()
    assert table[0].endswith("ACTIVE  LAST ERROR")
    assert table[1].endswith("3  -")
    assert table[2].endswith("0  connection refused (2026-01-02T03:04:05.678Z)")


def test_what_it_waits_for_before_it_serves_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    health = pages()["health"][1] | {"phase": "starting", "waiting_for": "/spool/a.db is in use by another process, 7"}
    with fake_admin(pages(health=(200, health), ready=(503, {"ready": False, "phase": "starting"}))) as url:
        assert show_status(url) == 1
    assert "phase     starting  waits: /spool/a.db is in use by another process, 7\n" in capsys.readouterr().out


def test_faults_that_are_injected_are_said_at_the_top(capsys: pytest.CaptureFixture[str]) -> None:
    health = pages()["health"][1] | {"faults": ["upstreams.tasks: 10 % of all are reset\x1b[2J"]}
    with fake_admin(pages(health=(200, health))) as url:
        assert show_status(url) == 0
    top = capsys.readouterr().out.partition("\n\n")[0]
    assert top.endswith("FAULTS    upstreams.tasks: 10 % of all are reset?[2J")


def test_what_is_queued_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    queue = {"requests": 12, "bytes": 5 << 20, "outcomes": {"queued": 20, "delivered": 7, "expired": 1}}
    upstream = UPSTREAM | {"stats": UPSTREAM["stats"] | {"queue": queue}, "endpoints": []}
    with fake_admin(pages(upstreams=(200, {"upstreams": [upstream]}))) as url:
        assert show_status(url) == 0
    assert capsys.readouterr().out.partition("211 ms\n\n")[2] == (
        "UPSTREAM  QUEUED     SIZE  DELIVERED  FAILED  EXPIRED  REFUSED\n"
        "tasks         12  5.0 MiB          7       0        1        0\n"
    )


def test_amqp_upstreams_are_asked_about_when_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    upstreams = (200, {"upstreams": [UPSTREAM | {"protocol": "amqp", "endpoints": []}]})
    with fake_admin(pages(upstreams=upstreams, amqp=(200, {"upstreams": [AMQP]}))) as url:
        assert show_status(url) == 0
    assert capsys.readouterr().out.partition("211 ms\n\n")[2] == (
        "AMQP      BROKER   CONNECTIONS  CHANNELS  CONSUMERS  UNACKED  STALLED  PUBLISHED  HELD\n"
        "rabbitmq  blocked           12        30          4       17        2         42     5\n"
        "\n"
        "AMQP      HELD FOR     MESSAGES\n"
        "rabbitmq  queue tasks         5\n"
        "\n"
        "AMQP      VHOST  QUEUE  DEPTH  LOW  HIGH  CONSUMERS  STATE\n"
        "rabbitmq  /      tasks     12    8    10          1  full\n"
        "rabbitmq  /      calm       0    8    10          0  free\n"
        "rabbitmq  /      gone       -    8    10          -  no such queue\n"
    )


SPOOL: dict[str, Any] = {
    "messages": 1200, "bytes": 267_000, "max_bytes": 1 << 30, "full": False, "problem": "", "obstacles": [],
    "replayed": 57, "expired": 3, "dead_letters": {"messages": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "fine"),
        ({"full": True}, "full"),
        ({"full": True, "problem": "disk I/O error"}, "disk I/O error"),
        ({"full": True, "obstacles": [{"vhost": "/", "user": "", "problem": "no route"}]}, "waits: no route"),
    ],
)
def test_a_spool_is_a_line(changes: dict[str, Any], state: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = AMQP | {"blocked": False, "detached": 2, "spool": SPOOL | changes}
    upstreams = (200, {"upstreams": [UPSTREAM | {"protocol": "amqp"}]})
    with fake_admin(pages(upstreams=upstreams, amqp=(200, {"upstreams": [port]}))) as url:
        assert show_status(url) == 0
    out = capsys.readouterr().out
    assert "rabbitmq  away " in out
    assert out.endswith(
        "AMQP      SPOOLED     SIZE       OF  REPLAYED  EXPIRED  DEAD LETTERS  STATE\n"
        f"rabbitmq     1200  261 KiB  1.0 GiB        57        3             4  {state}\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (99.94 * 1024, "99.9 KiB"), (99.96 * 1024, "100 KiB"),
     (1023.96 * 1024, "1.0 MiB"), (5 << 20, "5.0 MiB"), (1 << 30, "1.0 GiB"), (1 << 40, "1024.0 GiB")],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(int(count)) == text


def test_a_broker_that_is_away_without_any_clients(capsys: pytest.CaptureFixture[str]) -> None:
    upstreams = (200, {"upstreams": [UPSTREAM | {"name": "rabbitmq", "protocol": "amqp", "health": "unhealthy"}]})
    with fake_admin(pages(upstreams=upstreams, amqp=(200, {"upstreams": [AMQP | {"blocked": False}]}))) as url:
        assert show_status(url) == 0
    assert "rabbitmq  away " in capsys.readouterr().out


def test_a_broker_without_anything_to_tell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = AMQP | {"blocked": False, "held": {"messages": 0, "bytes": 0, "waiting_for": []}, "queues": []}
    upstreams = (200, {"upstreams": [UPSTREAM | {"protocol": "amqp"}]})
    with fake_admin(pages(upstreams=upstreams, amqp=(200, {"upstreams": [quiet]}))) as url:
        assert show_status(url) == 0
    out = capsys.readouterr().out
    assert "rabbitmq  free " in out
    assert "HELD FOR" not in out
    assert "QUEUE" not in out


def test_a_breaker_that_is_off_and_no_upstreams_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"breaker": None, "endpoints": []}]}))) as url:
        assert show_status(url) == 0
    out = capsys.readouterr().out
    assert " off " in out
    assert "ENDPOINT" not in out
    with fake_admin(pages(upstreams=(200, {"upstreams": []}))) as url:
        assert show_status(url) == 0
    assert "UPSTREAM" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"health": (503, {"status": "unhealthy", "phase": "ready", "app": {"status": "unhealthy"}, "registry": None})},
        {"ready": (503, {"ready": False, "phase": "draining"})},
    ],
)
def test_not_ready_or_unhealthy_is_shown_and_is_1(
    changes: dict[str, tuple[int, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_admin(pages(**changes)) as url:
        assert show_status(url) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("service ")
    assert captured.err == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"health": (200, b"<html>")},
        {"health": (200, [])},
        {"health": (401, {})},
        {"upstreams": (200, {"upstreams": "many"})},
        {"upstreams": (200, {"upstreams": [{"name": "of another version"}]})},
        {"upstreams": (200, {"upstreams": [17]})},
        {"upstreams": (200, {"upstreams": [UPSTREAM | {"protocol": "amqp"}]})},
        {"upstreams": (200, {"upstreams": [UPSTREAM | {"protocol": "amqp"}]}), "amqp": (200, {"upstreams": [{}]})},
        {"health": (200, {"status": "healthy", "registry": "much"})},
    ],
)
def test_something_else_answers(changes: dict[str, tuple[int, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    with fake_admin(pages(**changes)) as url:
        assert show_status(url) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "is not a sidecar's admin API" in captured.err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert show_status(url) == 1
    assert f"cannot reach {url}: Connection refused; is the sidecar running" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "127.0.0.1:15000", "file:///etc/passwd", "http://", "http://[", "http://h:port"])
def test_what_is_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_status(url) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_names_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = UPSTREAM["endpoints"][0] | {"id": "\x1b[2Jx\n"}
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"endpoints": [evil]}]}))) as url:
        assert show_status(url) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "?[2Jx?" in out


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_on_a_terminal_only_and_only_if_wanted(
    no_color: str, coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with fake_admin(pages()) as url:
        assert show_status(url) == 0
    assert ("\x1b[31mejected\x1b[0m" in capsys.readouterr().out) is coloured


def test_a_real_sidecar_and_its_exit_code(tmp_path: Path) -> None:
    upstreams = {"tasks": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{free_port()}"]}}
    sidecar = Sidecar(tmp_path, {"service": {"name": "web"}, "registry": "none", "upstreams": upstreams})
    try:
        sidecar.ready()
        command = [sys.executable, "-m", "sidecar", "status", "--admin", sidecar.admin]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert sidecar.terminate() == 0
    finally:
        sidecar.close()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "phase     ready" in run.stdout
    assert "tasks" in run.stdout
    assert run.stderr == ""


def test_a_breaker_that_is_held_is_shown_with_who_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    held = {"by": "ops", "reason": "moving", "since": "2026-01-01T00:00:00.000Z", "until": None}
    breaker = {"state": "open", "forced": "open", "held": held}
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"breaker": breaker}]}))) as url:
        assert show_status(url) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "ops" in line)
    assert line.split()[1:] == ["open", "ops", "-", "moving"]


def test_endpoints_say_why_they_are_out_and_what_they_get(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = UPSTREAM["endpoints"]
    endpoints = [one | {"share": 0.25}, two | {"ejection": {"reason": "latency", "text": "slow"}, "share": 0}]
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"endpoints": endpoints}]}))) as url:
        assert show_status(url) == 0
    table = capsys.readouterr().out.partition("ENDPOINT")[2].splitlines()
    assert [" ".join(line.split()) for line in table[1:]] == [
        "tasks 10.0.0.1:80 tasks-1 healthy (25%) 10 3", "tasks [::1]:80 - ejected (latency) 1 0",
    ]  # fmt: skip


def test_subsets_with_their_shares(capsys: pytest.CaptureFixture[str]) -> None:
    one = {
        "name": "stable", "weight": 90, "share": 1.0, "endpoints": 3, "usable": 3, "requests": {"200": 90, "503": 2},
        "p50_ms": 1.5, "p99_ms": 20.0,
    }  # fmt: skip
    two = one | {"name": "next", "share": 0.0, "usable": 0, "endpoints": 1, "requests": {}, "p50_ms": 0, "p99_ms": 0}
    with fake_admin(pages(upstreams=(200, {"upstreams": [UPSTREAM | {"subsets": [one, two]}]}))) as url:
        assert show_status(url) == 0
    table = capsys.readouterr().out.partition("SUBSET")[2].splitlines()
    assert [" ".join(line.split()) for line in table[1:3]] == [
        "tasks stable 100.0% 3 92 2 1.5 ms 20 ms", "tasks next 0.0% 0 of 1 0 0 - -",
    ]  # fmt: skip
