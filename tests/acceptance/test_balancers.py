"""Real processes: a slow instance gets few requests, and each agent has an instance of its own."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, get

#: Milliseconds that the slow one needs for ``/work``: more than others ever need, on a busy machine that pauses, too.
SLOW = 2500


class Mesh(NamedTuple):
    caller: Sidecar
    apps: dict[str, App]

    def ask(self, upstream: str, path: str = "/", **headers: str) -> tuple[dict[str, Any], dict[str, str]]:
        """What the app says that it was asked, and the fields of its answer."""
        url = f"http://127.0.0.1:{self.caller.port(upstream)}{path}"
        request = urllib.request.Request(
            url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer), {name.lower(): value for name, value in answer.headers.items()}

    def endpoints(self, upstream: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get(f"{self.caller.admin}/upstreams/{upstream}")[1]["endpoints"]
        return found


def _front(folder: Path, name: str, app: App) -> Sidecar:
    service = {"name": name, "app": f"127.0.0.1:{app.port}"}
    return Sidecar(folder, {"service": service, "inbound": {"bind": "127.0.0.1:0"}}, f"front-{name}")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three apps, of which c is slow; b and c have sidecars in front."""
    folder = tmp_path_factory.mktemp("balancers")
    with ending() as processes:
        apps = {name: App(folder, name, work=SLOW if name == "c" else 0) for name in ("a", "b", "c")}
        processes += apps.values()
        fronts = {name: _front(folder, name, apps[name]) for name in ("b", "c")}
        processes += fronts.values()
        for process in (*apps.values(), *fronts.values()):
            process.ready()
        direct = [f"127.0.0.1:{app.port}" for app in apps.values()]
        fronted = [{"address": f"127.0.0.1:{it.port(name)}", "sidecar": True} for name, it in fronts.items()]
        by_agent = {"balancer": "consistent_hash", "hash": {"by": "header:x-agent-id"}}
        upstreams = {
            "ewma": {"bind": "127.0.0.1:0", "endpoints": direct, "balancer": "peak_ewma"},
            "prequal": {"bind": "127.0.0.1:0", "endpoints": fronted, "balancer": "prequal"},
            "vectors": {"bind": "127.0.0.1:0", "endpoints": direct, **by_agent},
        }
        caller = Sidecar(folder, {"service": {"name": "caller"}, "upstreams": upstreams}, "caller")
        processes.append(caller)
        yield Mesh(caller.ready(), apps)


def test_a_slow_instance_gets_few_requests(mesh: Mesh) -> None:
    counts = Counter(mesh.ask("ewma", "/work")[0]["name"] for _ in range(40))
    assert counts["c"] <= 6, counts  # by turns it would be 13
    assert set(counts) >= {"a", "b"}, counts
    assert all(it["ewma_ms"] for it in mesh.endpoints("ewma"))


def test_sidecars_report_and_apps_see_nothing_of_it(mesh: Mesh) -> None:
    answers = [mesh.ask("prequal", "/work") for _ in range(30)]
    counts = Counter(asked["name"] for asked, _ in answers)
    assert counts["c"] <= 6, counts  # by turns it would be 15
    for asked, fields in answers:
        assert "endpoint-load-metrics" not in fields
        assert "x-sidecar-load" not in asked["headers"]
    reported = [it["reported"] for it in mesh.endpoints("prequal")]
    assert any(it and it["in_flight"] == 1 and it["latency_ms"] >= 0 for it in reported), reported


def test_each_agent_has_an_instance_of_its_own(mesh: Mesh) -> None:
    """A router of agents to vector databases: their indexes stay warm, also when one instance dies."""
    agents = [f"agent-{n}" for n in range(24)]
    homes = {agent: mesh.ask("vectors", x_agent_id=agent)[0]["name"] for agent in agents}
    assert {mesh.ask("vectors", x_agent_id=agent)[0]["name"] == homes[agent] for agent in agents} == {True}
    assert set(homes.values()) == {"a", "b", "c"}
    assert [it["hash_share"] for it in mesh.endpoints("vectors")] == pytest.approx([1 / 3] * 3, abs=0.001)
    mesh.apps["c"].kill()
    now = {agent: mesh.ask("vectors", x_agent_id=agent)[0]["name"] for agent in agents}
    assert {agent: name for agent, name in now.items() if homes[agent] != "c"} == {
        agent: name for agent, name in homes.items() if name != "c"
    }
    assert {name for agent, name in now.items() if homes[agent] == "c"} == {"a", "b"}
    assert len({mesh.ask("vectors")[0]["name"] for _ in range(40)}) == 2  # without an id: any
    status, page = get(f"{mesh.caller.admin}/metrics")
    assert (status, 'sidecar_hash_overflows_total{upstream="vectors"} 0' in page) == (200, True)
    assert 'sidecar_endpoint_ewma_seconds{upstream="ewma"' in page
