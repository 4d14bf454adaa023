"""A whole sidecar with a shared limit, in this process: what of it is told, counted, shown and looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.agent import shared_limits
from sidecar.agent.rehearsal.conditions import prepared
from sidecar.core.address import Address
from sidecar.core.events import EVENTS
from sidecar.filters.rate_limit import RateLimitSettings
from support.agents import RunningAgent, ask, upstream
from support.live import Origin, ok, run
from support.patience import until
from support.ports import upstream_of
from support.processes import free_port
from support.redis import FakeRedis

LIMIT = {"rate": "2/h", "burst": 2, "shared": True}


async def answered() -> Any:
    return ok(b"fine")


def config(app: int, redis: int, **more: Any) -> dict[str, Any]:
    return {
        "redis": {"url": f"redis://127.0.0.1:{redis}", "timeout": "10s", **more},
        "upstreams": {"a": upstream(f"127.0.0.1:{app}", rate_limit=LIMIT, routes=[{"match": {"path": "/x"}}])},
    }


def told() -> list[str]:
    return [it.text for it in EVENTS.since() if it.kind == "redis"]


def test_a_sidecar_asks_redis_and_goes_on_without(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Origin(lambda request: answered()) as app,
            FakeRedis() as redis,
            RunningAgent(tmp_path, **config(app.port, redis.port, on_failure="refuse")) as it,
        ):
            shared = it.agent.shared
            assert shared is not None
            assert (await ask(it.port("a")))[0] == 200
            (limit,) = shared_limits.in_use(it.agent.listeners())
            assert limit.name.startswith("sidecar:limit:outbound:a:")
            await until(lambda: shared.client.up)
            found = await shared_limits.check(shared)
            assert found.good, found
            assert f"127.0.0.1:{redis.port} answers; asked " in found.evidence
            names = [family.name for family in shared_limits.families(shared)]
            assert names == ["sidecar_shared_limit_checks", "sidecar_redis_up"]
            before = len(told())
            await redis.stop()
            await until(lambda: len(told()) > before)
            assert "what has a shared limit is refused" in told()[-1]
            found = await shared_limits.check(shared)
            assert found.good is False
            assert "is away" in found.evidence
            # A reload keeps the limit where its settings are the same, and makes another one where they are not.
            it.write(upstreams={"a": {**it.config["upstreams"]["a"], "rate_limit": {**LIMIT, "burst": 3}}})
            await it.agent.reload()
            (other,) = shared_limits.in_use(it.agent.listeners())
            assert other.name != limit.name

    run(main)


def test_without_redis_there_is_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream(rate_limit={"rate": "1/s"})}) as it:
            assert it.agent.shared is None
            assert list(shared_limits.in_use(it.agent.listeners())) == []
            assert list(shared_limits.families(None)) == []
            assert (await shared_limits.check(None)).good is None

    run(main)


@pytest.mark.parametrize(("mode", "words"), [("local", "keeps to its share"), ("allow", "do not limit")])
def test_what_happens_meanwhile_is_told(tmp_path: Path, mode: str, words: str) -> None:
    async def main() -> None:
        before = len(told())
        async with RunningAgent(tmp_path, **config(free_port(), free_port(), on_failure=mode)):
            await until(lambda: len(told()) > before)
            assert words in told()[-1]

    run(main)


def test_a_rehearsal_has_the_limit_for_itself() -> None:
    limit = RateLimitSettings(rate=1.0, burst=1, shared=True)
    port = upstream_of(name="a", bind=Address("127.0.0.1", 0), rate_limit=limit)
    _, left = prepared(port, set())
    assert [path for path, _ in left] == ["rate_limit.shared"]
