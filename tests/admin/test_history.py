"""``GET /history``."""

from __future__ import annotations

import pytest

from sidecar.admin.history import COLUMNS, PERIOD, History
from sidecar.agent import admin as handed
from sidecar.core.operations import Answer, Call
from sidecar.core.stats import BUCKETS
from support.admin import Asking, Levels
from support.clock import Clock
from support.running import FakeRunning, FakeUpstream, running


def history(of: FakeRunning, clock: Clock) -> History:
    return History(handed.commands(of, Levels()), clock)  # type: ignore[arg-type]


async def columns(it: History, of: str = "") -> list[dict[str, object]]:
    async def read() -> bytes:
        return b""

    found = await it.history(Call({}, (("of", of),), None, "", read))
    assert isinstance(found, Answer)
    columns: list[dict[str, object]] = found.data["columns"]
    return columns


@pytest.mark.asyncio
async def test_each_period_is_a_column() -> None:
    of, clock = running("ollama", "qdrant"), Clock()
    it = history(of, clock)
    it.look()
    for name, n in (("ollama", 3), ("qdrant", 5)):
        stats = of.upstreams[name].stats
        stats.tally("GET", 200).n += n
        stats.tally("GET", 503).n += 1
        stats.duration.observe(0.004)
    clock.advance(PERIOD)
    it.look()
    (column,) = await columns(it, "ollama")
    assert (column["requests"], column["errors"], column["at"]) == (4, 1, clock.now)
    (column,) = await columns(it, "outbound")
    assert (column["requests"], column["errors"]) == (10, 2)
    assert isinstance(column["counts"], list)
    assert (len(column["counts"]), sum(column["counts"])) == (len(BUCKETS) + 1, 2)
    (column,) = await columns(it)
    assert column["requests"] == 0
    clock.advance(PERIOD)
    it.look()
    assert [column["requests"] for column in await columns(it, "qdrant")] == [6, 0]


@pytest.mark.asyncio
async def test_it_is_bounded_and_begins_anew_with_another_upstream() -> None:
    of, clock = running("ollama"), Clock()
    it = history(of, clock)
    for _ in range(COLUMNS + 5):
        clock.advance(PERIOD)
        it.look()
    assert len(await columns(it, "ollama")) == COLUMNS
    of.upstreams["ollama"] = FakeUpstream("ollama")
    it.look()
    assert await columns(it, "ollama") == []
    del of.upstreams["ollama"]
    it.look()
    assert await columns(it, "outbound") == []


@pytest.mark.asyncio
async def test_over_http(admin: Asking) -> None:
    client = await admin(running("tasks"))
    found = (await client.get("/history")).json
    assert (found["of"], found["columns"], len(found["bounds_ms"])) == ("inbound", [], len(BUCKETS))
    assert (await client.get("/history?of=nobody")).error == (404, "not_found")
