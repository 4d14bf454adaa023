"""Real processes: two versions behind one upstream, copies for a third; one goes, and its share moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from support.processes import App, Sidecar, ending, get, wait_for


def test_a_tenth_goes_to_the_next_version_until_it_is_gone(tmp_path: Path) -> None:
    old, new, third = (App(tmp_path, name) for name in ("old", "new", "third"))
    with ending(old, new, third) as running:
        endpoints = [
            {"address": f"127.0.0.1:{old.ready().port}", "tags": ["v1"]},
            {"address": f"127.0.0.1:{new.ready().port}", "tags": ["v2"]},
        ]
        tasks = {
            "bind": "127.0.0.1:0",
            "endpoints": endpoints,
            "subsets": {"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
            "split": {"stable": 90, "next": 10},
            "retry": {"initial_delay": "1ms"},
            "mirror": {"upstream": "shadow", "share": "25%"},
        }
        shadow = {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{third.ready().port}"]}
        sidecar = Sidecar(tmp_path, {"service": {"name": "edge"}, "upstreams": {"tasks": tasks, "shadow": shadow}})
        running.append(sidecar)
        url = f"http://127.0.0.1:{sidecar.ready().port('tasks')}/"

        def served(requests: int) -> Counter[str]:
            return Counter(get(url)[1]["name"] for _ in range(requests))

        def shares() -> dict[str, float]:
            return {it["name"]: it["share"] for it in get(f"{sidecar.admin}/upstreams/tasks")[1]["subsets"]}

        assert served(40) == {"old": 36, "new": 4}
        assert shares() == {"stable": 0.9, "next": 0.1}
        _, page = get(f"{sidecar.admin}/metrics")
        assert 'sidecar_subset_requests_total{upstream="tasks",subset="next",code="200"} 4.0' in page

        def mirrored() -> bool:
            _, page = get(f"{sidecar.admin}/metrics")
            return 'sidecar_mirrored_total{upstream="tasks",outcome="answered"} 10.0' in page

        wait_for(mirrored, "a quarter of the requests was copied")
        new.kill()
        assert served(20) == {"old": 20}, "a request that met it is tried again, and nobody notices"
        _, told = get(f"{sidecar.admin}/events")
        assert "subset" in [event["kind"] for event in told["events"]]
