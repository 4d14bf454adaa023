"""Real processes: two versions behind one upstream, split in exact shares; the new one goes, and its share moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from support.processes import App, Sidecar, ending, get


def test_a_tenth_goes_to_the_next_version_until_it_is_gone(tmp_path: Path) -> None:
    with ending(App(tmp_path, "old"), App(tmp_path, "new")) as running:
        old, new = running
        assert isinstance(old, App)
        assert isinstance(new, App)
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
        }
        sidecar = Sidecar(tmp_path, {"service": {"name": "edge"}, "upstreams": {"tasks": tasks}})
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
        new.kill()
        assert served(20) == {"old": 20}, "a request that met it is tried again, and nobody notices"
        _, told = get(f"{sidecar.admin}/events")
        assert "subset" in [event["kind"] for event in told["events"]]
