"""A service is killed and comes back: its callers get answers all the time, marked ones while it is away."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, get, wait_for

AWAY = ["circuit_open", "no_endpoints", "connect_failed", "upstream_reset", "timeout", "overloaded", "5xx"]
QUICK = {"max_attempts": 2, "initial_delay": "10ms"}
STATIC = {"status": 200, "headers": {"content-type": "application/json"}, "body": '{"mode":"simple"}'}


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: Any

    @property
    def step(self) -> str:
        return self.fields.get("x-sidecar-fallback", "")


def ask(port: int, path: str = "/", method: str = "GET", body: bytes = b"") -> Answer:
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        conn.request(method, path, body or None)
        answer = conn.getresponse()
        data = answer.read()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, fields, json.loads(data) if data else None)
    finally:
        conn.close()


def configuration(app: int, simple: int) -> dict[str, Any]:
    """The breakers have the numbers of the default: five failures, and a minute until they are tried again."""
    upstream = {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app}"], "retry": QUICK}
    steps = [{"on": AWAY, "upstream": "simple-tasks"}, {"on": AWAY, "answer": STATIC}]
    return {
        "service": {"name": "outage-test"},
        "registry": "none",
        "log": {"access": "errors"},
        "upstreams": {
            "tasks": {**upstream, "fallback": steps},
            "simple-tasks": {**upstream, "endpoints": [f"127.0.0.1:{simple}"]},
            "catalog": {**upstream, "fallback": [{"on": AWAY, "stale": "1h"}, {"on": AWAY, "answer": STATIC}]},
            "patient": {**upstream, "wait": {"timeout": "2m"}, "timeout": {"request": "2m"}},
            "redis": {
                "bind": "127.0.0.1:0", "protocol": "tcp", "endpoints": [f"127.0.0.1:{app}"], "retry": QUICK,
                "wait": {"timeout": "2m"},
            },
        },
    }  # fmt: skip


def test_no_client_sees_the_outage(tmp_path: Path) -> None:
    app, simple = App(tmp_path, "tasks"), App(tmp_path, "simple")
    sidecar = Sidecar(tmp_path, configuration(app.port, simple.port))
    with ending(app, simple, sidecar) as processes, ThreadPoolExecutor(8) as threads:
        app.ready()
        simple.ready()
        sidecar.ready()
        tasks, catalog, patient = (sidecar.port(name) for name in ("tasks", "catalog", "patient"))
        before = ask(tasks, "/a")
        assert (before.status, before.step, before.body["name"]) == (200, "", "tasks")
        assert ask(catalog, "/list").step == ""

        app.kill()
        answers = [ask(tasks, f"/{number}", "POST", b"task") for number in range(40)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.step for answer in answers} == {"1"}
        assert {answer.body["name"] for answer in answers} == {"simple"}
        assert answers[0].body["size"] == 4

        stale = ask(catalog, "/list")
        assert (stale.status, stale.step, stale.body["target"]) == (200, "1", "/list")
        assert stale.fields["age"].isdigit()
        unknown = ask(catalog, "/new")
        assert (unknown.step, unknown.body) == ("2", {"mode": "simple"})

        simple.kill()
        assert ask(tasks, "/static").step == "2"

        waiting = [threads.submit(ask, port, f"/{port}") for port in (patient, sidecar.port("redis")) for _ in range(3)]
        wait_for(lambda: 'waiting{upstream="patient"} 3.0' in get(f"{sidecar.admin}/metrics")[1], "they wait")
        wait_for(lambda: view(sidecar, "patient", "wait")["waiting"] == 3, "and are shown")
        assert wait_for(
            lambda: 'waiting{upstream="redis"} 3.0' in get(f"{sidecar.admin}/metrics")[1], "connections, too"
        )
        told(sidecar)

        back = App(tmp_path, "tasks-again", app.port)
        processes.append(back)
        back.ready()
        during: list[Answer] = []

        def own() -> bool:
            during.append(ask(tasks, "/b"))
            return not during[-1].step

        wait_for(own, "the breaker lets it through again")
        assert {answer.status for answer in during} == {200}
        assert during[-1].body["name"] == "tasks-again"
        for each in waiting:
            answer = each.result(PATIENCE)
            assert (answer.status, answer.step, answer.body["name"]) == (200, "", "tasks-again")
        assert wait_for(lambda: not ask(catalog, "/list").step, "its breaker, too")


def view(sidecar: Sidecar, upstream: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{sidecar.admin}/upstreams/{upstream}")[1]["stats"]["filters"][name]
    return found


def told(sidecar: Sidecar) -> None:
    """What is told of it while it lasts."""
    metrics = get(f"{sidecar.admin}/metrics")[1]
    assert 'sidecar_fallbacks_total{upstream="tasks",step="1"} 40.0' in metrics
    assert 'sidecar_fallbacks_total{upstream="tasks",step="2"} 1.0' in metrics
    assert 'sidecar_circuit_breaker_state{upstream="tasks"}' in metrics
    assert view(sidecar, "tasks", "fallback")["answered"] == {"1": 40, "2": 1}
    (story,) = get(f"{sidecar.admin}/why?upstream=tasks&limit=1")[1]["requests"]
    assert story["cause"].startswith("step 2 of the fallback gave its own answer (before it: simple-tasks: ")
    wait_for(lambda: logged(sidecar).count(1) == 40, lambda: f"all are in the log: {logged(sidecar)}")


def logged(sidecar: Sidecar) -> list[int]:
    """The steps that the access log has for an upstream."""
    lines = [json.loads(line) for line in sidecar.output().splitlines() if '"sidecar.access"' in line]
    return [line["fallback"] for line in lines if line["upstream"] == "tasks"]
