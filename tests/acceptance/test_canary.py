"""Real sidecars with one canary, whose state is in a real Consul: they go together, also while that is away."""

from __future__ import annotations

from pathlib import Path

from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, get, wait_for
from support.rollouts import act, ask, at, canary_of, shared_by


def test_two_sidecars_step_and_roll_back_together(tmp_path: Path) -> None:
    old, new = App(tmp_path, "old"), App(tmp_path, "new")
    with ConsulAgent() as agent, ending(old, new) as running:
        old.ready()
        new.ready()
        settings = {"steps": [10, 50], "each": "1h", "guard": {"min_requests": 20, "p99": "1m"}}
        config = shared_by(f"consul://127.0.0.1:{agent.http_port}", old, new, settings)
        one, two = (Sidecar(tmp_path, config(name), name) for name in ("one", "two"))
        running += [one, two]
        both = (one.ready(), two.ready())
        wait_for(lambda: at("running", 10, *both), "it begins")

        assert act(one, "promote")[1]["weight"] == 50
        wait_for(lambda: at("running", 50, *both), "both have the next step")
        assert 'sidecar_canary_weight{upstream="tasks"} 0.5' in get(f"{two.admin}/metrics")[1]
        assert act(two, "resume")[0] == 409

        three = Sidecar(tmp_path, config("three"), "three")
        running.append(three)
        three.ready()
        wait_for(lambda: at("running", 50, three), "one that is started joins at that step")

        agent.kill()
        wait_for(lambda: act(one, "promote")[0] == 503, "nobody goes ahead of the others")
        new.kill()  # from now on all of the canary's requests fail
        ask(one, "/", 60)
        wait_for(lambda: canary_of(one)["phase"] == "rolled_back", "by itself, while Consul is away")
        assert (canary_of(one)["weight"], canary_of(one)["told"]) == (0, False)
        assert "requests failed" in canary_of(one)["reason"]
        assert canary_of(two)["weight"] == 50

        agent.start()  # with nothing of what it knew
        wait_for(lambda: at("rolled_back", 0, one, two, three), "all are rolled back")
        assert "canary" in [event["kind"] for event in get(f"{two.admin}/events")[1]["events"]]
