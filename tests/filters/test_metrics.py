"""What is counted, and what is logged, for each way an exchange can end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sidecar.config.model import Retry, Upstream
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, run, until
from support.processes import free_port

_CONFIG = Upstream(name="up", bind=ANY_PORT, retry=Retry(max_attempts=2, initial_delay=0.0))


def test_an_answer() -> None:
    async def main() -> None:
        async with Origin(ok(b"12345")) as origin, Live(_CONFIG, origin.port) as live:
            await fetch(live.port, "/path?secret=1", "PUT", body=b"123")
            assert live.stats.requests == {("PUT", 200): 1}
            assert live.stats.duration.count() == 1
            assert (live.stats.bytes_in, live.stats.bytes_out) == (3, 5)
            assert not live.stats.rejected
            (record,) = live.log.records
            assert (record.direction, record.upstream, record.method) == ("outbound", "up", "PUT")
            assert record.target == "/path"  # never the query: it may hold secrets
            assert (record.status, record.error, record.attempts) == (200, None, 1)
            assert (record.bytes_in, record.bytes_out) == (3, 5)
            assert (record.client, record.endpoint) == ("127.0.0.1", f"127.0.0.1:{origin.port}")

    run(main)


def test_methods_that_peers_make_up_share_a_label() -> None:
    async def main() -> None:
        async with Origin() as origin, Live(_CONFIG, origin.port) as live:
            for n in range(20):
                await fetch(live.port, method=f"M{n}")
            assert live.stats.requests == {("other", 200): 20}

    run(main)


def test_statuses_that_apps_make_up_share_labels() -> None:
    async def main() -> None:
        async def answer(given: Request) -> bytes:
            return ok(status=given.target.removeprefix("/") + " X")

        async with Origin(answer) as origin, Live(replace(_CONFIG, circuit_breaker=None), origin.port) as live:
            for status in (200, 299, 298, 499, 503, 599, 600, 999):
                assert (await fetch(live.port, f"/{status}", method="POST")).status == status
            assert live.stats.requests == {
                ("POST", key): n for key, n in ((200, 1), (2, 2), (499, 1), (503, 1), (5, 1), (6, 1), (9, 1))
            }

    run(main)


def test_a_reply_of_our_own() -> None:
    async def main() -> None:
        port = free_port()
        async with Live(_CONFIG, port) as live:
            assert (await fetch(live.port)).error == "connect_failed"
            assert live.stats.requests == {("GET", 502): 1}
            assert live.stats.rejected == {"connect_failed": 1}
            assert live.stats.retries == {"connect": 1}
            (record,) = live.log.records
            assert (record.error, record.attempts, record.endpoint) == ("connect_failed", 2, f"127.0.0.1:{port}")

    run(main)


def test_a_client_that_leaves() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with Origin(never) as origin, Live(_CONFIG, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            client.cancel()
            await until(lambda: not live.stats.active)
            assert live.stats.requests == {("GET", 499): 1}
            assert not live.stats.rejected
            assert len(live.log.records) == 1

    run(main)
