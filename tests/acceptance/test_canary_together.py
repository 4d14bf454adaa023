"""Real sidecars, each with too little traffic to prove anything of a canary, roll it back together by what they tell
each other: in a real Consul, and in a folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, get, wait_for
from support.rollouts import ask, at, canary_of, shared_by

#: What each sends, and what the guard takes before it says anything.
EACH, LEAST = 80, 40


@pytest.mark.parametrize("kind", ["consul", "folder"])
def test_four_sidecars_prove_together_what_none_of_them_can(tmp_path: Path, kind: str) -> None:
    with ExitStack() as stack:
        if kind == "consul":
            agent = stack.enter_context(ConsulAgent())
            registry = f"consul://127.0.0.1:{agent.http_port}"
        else:
            registry = f"directory://{tmp_path / 'mesh'}"
        old, new = App(tmp_path, "old"), App(tmp_path, "new")
        running = stack.enter_context(ending(old, new))
        old.ready()
        new.ready()
        guard = {"min_requests": LEAST, "p99": "1m"}
        config = shared_by(registry, old, new, {"steps": [20], "each": "1h", "guard": guard})
        sidecars = [Sidecar(tmp_path, config(name), name) for name in ("one", "two", "three", "four")]
        running += sidecars
        for it in sidecars:
            it.ready()
        wait_for(lambda: at("running", 20, *sidecars), "it begins")

        for it in sidecars:
            ask(it, "/", EACH // 2)
        wait_for(lambda: {canary_of(it)["judged"]["sidecars"] for it in sidecars} == {4}, "all hear of all")
        assert all(canary_of(it)["judged"]["shared"] for it in sidecars)
        assert 'sidecar_canary_sidecars{upstream="tasks"} 4.0' in get(f"{sidecars[0].admin}/metrics")[1]
        new.kill()  # from now on all of the canary's requests fail
        for it in sidecars:
            ask(it, "/", EACH // 2)
        wait_for(lambda: at("rolled_back", 0, *sidecars), "all are rolled back")
        reason = canary_of(sidecars[0])["reason"]
        assert "requests failed" in reason
        assert reason.endswith("; 4 sidecars have counted")
