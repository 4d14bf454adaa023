"""Real sidecars with one limit in a real Redis, which is killed and comes back."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.processes import App, Sidecar, ending, get, wait_for
from support.servers import Redis


def _config(redis: Redis, app: App, name: str, on_failure: str) -> dict[str, Any]:
    """Two upstreams: one limit that a test uses up, and one that it never does."""
    where = {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app.port}"], "retry": "off"}
    return {
        "service": {"name": name},
        "drain": {"timeout": "1s"},
        "redis": {"url": f"redis://127.0.0.1:{redis.port}", "timeout": "2s", "on_failure": on_failure},
        "upstreams": {
            "few": {**where, "rate_limit": {"rate": "3/h", "burst": 3, "key": "header:x-agent", "shared": True}},
            "many": {**where, "rate_limit": {"rate": "40/h", "burst": 40, "shared": True}},
        },
    }


def _ask(sidecar: Sidecar, upstream: str, agent: str = "") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{sidecar.port(upstream)}/", headers={"x-agent": agent})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _metric(sidecar: Sidecar, name: str) -> float:
    lines = str(get(f"{sidecar.admin}/metrics")[1]).splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def _told(sidecar: Sidecar) -> list[str]:
    """Events about Redis."""
    events = get(f"{sidecar.admin}/events")[1]["events"]
    return [f"{it['text']} {it['id']}" for it in events if it["kind"] == "redis"]


def _checks(sidecar: Sidecar, outcome: str) -> float:
    return _metric(sidecar, f'sidecar_shared_limit_checks_total{{outcome="{outcome}"}}')


def test_three_sidecars_have_one_limit_and_each_its_own_way_without_redis(tmp_path: Path) -> None:
    with ending(Redis(tmp_path), App(tmp_path, "app")) as processes:
        redis, app = processes
        assert isinstance(redis, Redis)
        assert isinstance(app, App)
        redis.ready()
        modes = ("local", "refuse", "allow")
        sidecars = {it: Sidecar(tmp_path, _config(redis, app, "web", it), it) for it in modes}
        processes += sidecars.values()
        app.ready()
        for sidecar in sidecars.values():
            sidecar.ready()
        wait_for(lambda: all(_metric(it, "sidecar_redis_up") == 1 for it in sidecars.values()), "Redis is in use")

        # Exact where a limit is small, whoever of them is asked, for each key.
        for agent in ("a", "b"):
            statuses = [_ask(sidecar, "few", agent) for _ in range(3) for sidecar in sidecars.values()]
            assert statuses == [200] * 3 + [429] * 6
        # With leases: never more, and what is left in one sidecar's hands is little.
        passed, refused = 0, dict.fromkeys(modes, 0)
        while min(refused.values()) < 3:
            for mode, sidecar in sidecars.items():
                status = _ask(sidecar, "many")
                passed += status == 200
                refused[mode] += status == 429
        assert 20 <= passed <= 40
        asked = sum(_checks(it, outcome) for it in sidecars.values() for outcome in ("granted", "refused"))
        assert asked <= 18 + 2 * passed + 9
        (found,) = get(f"{sidecars['local'].admin}/why?error=rate_limited&upstream=few&limit=1")[1]["requests"]
        assert found["setting"] == "upstreams.few.rate_limit.rate"

        told = {mode: _told(sidecar) for mode, sidecar in sidecars.items()}
        redis.kill()
        wait_for(lambda: all(_metric(it, "sidecar_redis_up") == 0 for it in sidecars.values()), "it is away")
        again = {mode: [_ask(sidecar, "few", "c") for _ in range(4)] for mode, sidecar in sidecars.items()}
        assert again["refuse"] == [429] * 4
        assert again["allow"] == [200] * 4
        share = again["local"].count(200)
        assert 1 <= share <= 3
        assert again["local"] == [200] * share + [429] * (4 - share)
        for mode, sidecar in sidecars.items():
            assert _checks(sidecar, mode) >= 4
            assert get(f"{sidecar.admin}/ready")[0] == 200
            shown = get(f"{sidecar.admin}/upstreams/few")[1]["stats"]["filters"]["rate_limit"]
            assert shown["shared"] == mode
            (event,) = [text for text in _told(sidecar) if text not in told[mode]]
            assert event.startswith("Redis is away, so ")
            checks = {it["check"]: it for it in get(f"{sidecar.admin}/diagnose")[1]["findings"]}
            assert checks["redis"]["result"] == "bad"
        (found,) = get(f"{sidecars['refuse'].admin}/why?error=rate_limited&upstream=few&limit=1")[1]["requests"]
        assert found["setting"] == "redis.on_failure"

        processes.append(Redis(tmp_path, redis.port).ready())
        wait_for(lambda: all(_metric(it, "sidecar_redis_up") == 1 for it in sidecars.values()), "it is back")
        statuses = [_ask(sidecar, "few", "d") for _ in range(3) for sidecar in sidecars.values()]
        assert statuses == [200] * 3 + [429] * 6
        assert all("Traceback" not in sidecar.output() for sidecar in sidecars.values())
