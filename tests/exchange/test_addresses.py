"""Names with several addresses, through real listeners: one that is silent, one that leaves the set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sidecar.config.traffic import Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from support.live import ANY_PORT, Live, Origin, fetch, ok, run
from support.patience import until
from support.ports import upstream_of
from support.silent import Silent

HOST = "two.test"


def http(**more: Any) -> Upstream:
    return upstream_of(name="up", bind=ANY_PORT, retry=None, circuit_breaker=None, **more)


def addresses(live: Live, *addresses: Address) -> None:
    """Those of one name."""
    live.listener.cluster.update(Instance(host=a.host, port=a.port, hostname=HOST, id="i") for a in addresses)


@asynccontextmanager
async def silent_and_good(config: Upstream, origin: Origin) -> AsyncIterator[Live]:
    """An upstream by a name whose first address says nothing."""
    silent = Silent("127.0.4.1", origin.port)
    try:
        async with Live(config) as live:
            addresses(live, Address("127.0.4.1", origin.port), Address("127.0.0.1", origin.port))
            yield live
    finally:
        silent.close()


def test_a_silent_address_costs_a_moment_once() -> None:
    """Also without retries, and with a breaker that never hears of it."""

    async def main() -> None:
        async with Origin(ok()) as origin, silent_and_good(http(), origin) as live:
            for _ in range(4):
                assert (await fetch(live.port)).status == 200
            silent, good = live.listener.cluster.endpoints
            assert silent.ejected_until
            assert (silent.active, good.active) == (0, 0)
            assert len(origin.requests) == 4
            await until(live.nothing_left)

    run(main)


def test_a_silent_address_of_a_tcp_upstream() -> None:
    async def main() -> None:
        async with Origin(ok()) as origin, silent_and_good(http(protocol="tcp"), origin) as live:
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
                await writer.wait_closed()
            silent, good = live.listener.cluster.endpoints
            assert silent.ejected_until
            assert not good.ejected_until
            await until(live.nothing_left)

    run(main)


def test_an_error_names_the_name_beside_the_address() -> None:
    async def main() -> None:
        async with Live(http()) as live:
            addresses(live, Address("127.0.4.9", 1))
            answer = await fetch(live.port)
            assert answer.error == "connect_failed"
            assert b"two.test (127.0.4.9:1)" in answer.body

    run(main)


def test_why_there_are_no_endpoints() -> None:
    async def main() -> None:
        async with Live(http()) as live:
            live.listener.cluster.problem = "two.test does not resolve: there is no such name"
            answer = await fetch(live.port)
            assert answer.error == "no_endpoints"
            assert b"two.test does not resolve: there is no such name" in answer.body

    run(main)


def test_what_is_under_way_to_an_address_that_has_left_finishes_and_nothing_is_kept() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def slow(request: object) -> bytes:
            await go_on.wait()
            return ok(b"late")

        async with Origin(slow) as origin, Live(http()) as live:
            addresses(live, Address("127.0.0.1", origin.port))
            asked = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            addresses(live)
            go_on.set()
            answer = await asked
            assert (answer.status, answer.body) == (200, b"late")
            await until(live.nothing_left)
            assert live.stats.upstream_idle == 0

    run(main)
