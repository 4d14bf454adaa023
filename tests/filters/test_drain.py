"""Inbound work while draining."""

from __future__ import annotations

import asyncio

from sidecar.config.traffic import Inbound, Upstream
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, run
from support.patience import until


def test_new_work_is_turned_away_and_what_is_under_way_finishes() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(_: Request) -> bytes:
            await gate.wait()
            return ok(b"done")

        async with Origin(held) as origin, Live(Inbound(bind=ANY_PORT), origin.port) as live:
            running = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            live.listener.drain()
            refused = await fetch(live.port)
            assert (refused.status, refused.error, refused.fields["connection"]) == (503, "draining", "close")
            gate.set()
            assert (await running).body == b"done"
            await live.listener.drained()
            assert live.nothing_left()

    run(main)


def test_outbound_goes_on() -> None:
    async def main() -> None:
        async with Origin() as origin, Live(Upstream(name="up", bind=ANY_PORT), origin.port) as live:
            live.listener.drain()
            assert (await fetch(live.port)).status == 200

    run(main)
