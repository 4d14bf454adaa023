"""A page of a large sidecar costs little CPU, and lets traffic have its turn."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import cast

import pytest

from sidecar.agent.admin import metrics
from sidecar.agent.lifecycle import Agent
from sidecar.endpoints.endpoint import Endpoint
from sidecar.telemetry import metrics as made
from sidecar.telemetry.exposition import CLASSIC, OPENMETRICS
from sidecar.telemetry.metrics import Shared
from support.running import FakeRegistry, FakeRunning, running

#: CPU seconds that a page of fifty upstreams with twenty endpoints each may cost.
MOST = 0.05


def large() -> FakeRunning:
    it = running(*(f"upstream-{n}" for n in range(50)), registry=FakeRegistry())
    for upstream in it.upstreams.values():
        upstream.endpoints = [Endpoint("10.0.0.1", port) for port in range(1, 21)]
        stats = upstream.stats
        for method, code in itertools.product(("GET", "POST", "PUT"), (200, 201, 404, 500, 503)):
            stats.tally(method, code).n += 7
        for n in range(16):
            stats.duration.observe(0.001 * 2**n)
            stats.duration.exemplify(0.001 * 2**n, "a" * 32, 1.7e9)
    return it


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_a_large_page_costs_little(accept: str) -> None:
    page = metrics(cast(Agent, large()))
    costs = []
    traced = sys.gettrace()
    sys.settrace(None)  # to count branches costs more than the page
    try:
        for _ in range(5):
            before = time.process_time()
            body, _ = page.render(accept)
            costs.append(time.process_time() - before)
    finally:
        sys.settrace(traced)
    assert body.count(b"\n") > 50 * 20 * 4
    assert min(costs) < MOST


def test_others_have_their_turn_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "perf_counter", itertools.count(0.0, made.SLICE * 1.5).__next__)
    page = metrics(cast(Agent, large()))
    families = page.render("")[0].count(b"# TYPE")
    turns = 0

    async def main() -> None:
        page_made = asyncio.ensure_future(page.page(""))
        nonlocal turns
        while not page_made.done():
            turns += 1
            await asyncio.sleep(0)
        assert page_made.result()[0].count(b"# TYPE") == families

    asyncio.run(main())
    assert turns >= families


def test_however_many_ask_it_is_made_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "FRESH", 0.05)
    pages = 0

    async def make(accept: str) -> tuple[bytes, str]:
        nonlocal pages
        pages += 1
        await asyncio.sleep(0)
        return b"page %d" % pages, accept

    async def main() -> None:
        shared = Shared(make)
        first = await asyncio.gather(*(shared.page("") for _ in range(100)))
        assert set(first) == {(b"page 1", CLASSIC)}
        assert await shared.page("application/openmetrics-text") == (b"page 2", OPENMETRICS)
        asyncio.get_running_loop().call_later(0.06, woken.set)
        await woken.wait()
        assert (await shared.page("text/plain"))[0] == b"page 3"

    woken = asyncio.Event()
    asyncio.run(main())


def test_a_page_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "FRESH", 0.0)
    errors = [OSError("no descriptors")]

    async def make(accept: str) -> tuple[bytes, str]:
        if errors:
            raise errors.pop()
        return b"page", accept

    async def main() -> None:
        shared = Shared(make)
        with pytest.raises(OSError, match="no descriptors"):
            await shared.page("")
        await asyncio.sleep(0.001)
        assert (await shared.page(""))[0] == b"page"

    asyncio.run(main())
