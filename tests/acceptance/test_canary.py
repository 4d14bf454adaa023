"""Real sidecars with one canary, whose state is in a real Consul: they go together, also while that is away."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, get, wait_for


def _config(agent: ConsulAgent, old: App, new: App, name: str) -> dict[str, Any]:
    tasks = {
        "bind": "127.0.0.1:0",
        "endpoints": [
            {"address": f"127.0.0.1:{old.port}", "tags": ["v1"]},
            {"address": f"127.0.0.1:{new.port}", "tags": ["v2"]},
        ],
        "subsets": {"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
        "split": {"stable": 100},
        "canary": {"subset": "next", "steps": [10, 50], "each": "1h", "guard": {"min_requests": 20, "p99": "1m"}},
        "retry": "off",
        "circuit_breaker": "off",
        "health": {"eject": "off"},
    }
    return {
        "service": {"name": name},
        "registry": f"consul://127.0.0.1:{agent.http_port}",
        "drain": {"timeout": "1s"},
        "upstreams": {"tasks": tasks},
    }


def _canary(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = get(f"{sidecar.admin}/upstreams/tasks")[1]["canary"]
    return found


def _at(phase: str, weight: int, *sidecars: Sidecar) -> bool:
    """Whether all of these are there, and the registry knows it."""
    return all((it["phase"], it["weight"], it["told"]) == (phase, weight, True) for it in map(_canary, sidecars))


def _act(sidecar: Sidecar, action: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{sidecar.admin}/upstreams/tasks/canary/{action}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _ask(sidecar: Sidecar, path: str, requests: int) -> None:
    for _ in range(requests):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{sidecar.port('tasks')}{path}", timeout=30):
                pass
        except urllib.error.HTTPError as error:
            error.close()


def test_two_sidecars_step_and_roll_back_together(tmp_path: Path) -> None:
    old, new = App(tmp_path, "old"), App(tmp_path, "new")
    with ConsulAgent() as agent, ending(old, new) as running:
        old.ready()
        new.ready()
        one, two = (Sidecar(tmp_path, _config(agent, old, new, name), name) for name in ("one", "two"))
        running += [one, two]
        both = (one.ready(), two.ready())
        wait_for(lambda: _at("running", 10, *both), "it begins")

        assert _act(one, "promote")[1]["weight"] == 50
        wait_for(lambda: _at("running", 50, *both), "both have the next step")
        assert 'sidecar_canary_weight{upstream="tasks"} 0.5' in get(f"{two.admin}/metrics")[1]
        assert _act(two, "resume")[0] == 409

        three = Sidecar(tmp_path, _config(agent, old, new, "three"), "three")
        running.append(three)
        three.ready()
        wait_for(lambda: _at("running", 50, three), "one that is started joins at that step")

        agent.kill()
        wait_for(lambda: _act(one, "promote")[0] == 503, "nobody goes ahead of the others")
        new.kill()  # from now on all of the canary's requests fail
        _ask(one, "/", 60)
        wait_for(lambda: _canary(one)["phase"] == "rolled_back", "by itself, while Consul is away")
        assert (_canary(one)["weight"], _canary(one)["told"]) == (0, False)
        assert "requests failed" in _canary(one)["reason"]
        assert _canary(two)["weight"] == 50

        agent.start()  # with nothing of what it knew
        wait_for(lambda: _at("rolled_back", 0, one, two, three), "all are rolled back")
        assert "canary" in [event["kind"] for event in get(f"{two.admin}/events")[1]["events"]]
