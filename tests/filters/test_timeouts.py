"""The times of an exchange, each where it begins and ends; time passes when the test says so."""

from __future__ import annotations

import asyncio

from sidecar.config.model import Bulkhead, CircuitBreaker, Match, Retry, Route, Timeout, Upstream
from sidecar.filters.timeouts import Timeouts
from support.http import Stage
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, run, settle, until


async def never(_: Request) -> bytes:
    await asyncio.Event().wait()
    return b""


def test_the_deadline_counts_from_the_beginning() -> None:
    stage = Stage()
    x = stage.exchange()
    stage.loop.advance(3)
    Timeouts(Timeout(request=10.0)).on_request(x)
    assert x.deadline == x.started + 10.0


def test_no_answer_in_time() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, timeout=Timeout(request=5.0))
        async with Origin(never) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            live.time.advance(4.9)
            await settle()
            assert not client.done()
            live.time.advance(0.2)
            answered = await client
            assert (answered.status, answered.error) == (504, "timeout")
            assert live.stats.duration.total >= 5.0
            await until(live.nothing_left)

    run(main)


def test_waiting_in_the_bulkheads_queue_counts() -> None:
    async def main() -> None:
        config = Upstream(
            name="up",
            bind=ANY_PORT,
            timeout=Timeout(request=5.0),
            bulkhead=Bulkhead(max_requests=1, pending_timeout=60.0),
        )
        async with Origin(never) as origin, Live(config, origin.port) as live:
            first = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            live.time.advance(3)
            second = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.pending == 1)
            live.time.advance(2.1)
            assert (await first).error == "timeout"
            await until(lambda: len(origin.requests) == 2)
            live.time.advance(2.8)
            await settle()
            assert not second.done()
            live.time.advance(0.2)
            assert (await second).error == "timeout"
            await until(live.nothing_left)

    run(main)


def test_the_smaller_of_request_and_timeout_duration_counts_for_a_try() -> None:
    async def main() -> None:
        config = Upstream(
            name="up",
            bind=ANY_PORT,
            timeout=Timeout(request=60.0),
            circuit_breaker=CircuitBreaker(timeout_duration=2.0),
            retry=Retry(on=frozenset({"timeout"}), jitter=False),
        )
        async with Origin(never) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            live.time.advance(2.1)
            await until(lambda: live.stats.retries["timeout"] == 1)
            origin.handler = ok()
            live.time.advance(1.1)
            assert (await client).status == 200

    run(main)


def test_a_long_answer_lives_while_it_says_something() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, timeout=Timeout(request=1.0, idle=10.0))
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"

        async def first_byte(_: Request) -> bytes:
            return head + b"1"

        async with Origin(first_byte) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            (writer,) = await until_writer(origin)
            for n in range(2, 6):
                await until(lambda n=n: live.stats.bytes_out == n - 1)  # type: ignore[misc]
                live.time.advance(9)
                writer.write(b"%d" % n)
            assert (await client).body == b"12345"

    run(main)


def test_silence_in_the_middle_of_an_answer_ends_it() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, timeout=Timeout(idle=10.0))
        async with (
            Origin(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1") as origin,
            Live(config, origin.port) as live,
        ):
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.bytes_out == 1)
            live.time.advance(9.9)
            await settle()
            assert not client.done()
            live.time.advance(0.2)
            assert (await client).status == 0
            await until(live.nothing_left)

    run(main)


def test_total_ends_even_an_answer_that_goes_on() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, timeout=Timeout(total=15.0))
        async with (
            Origin(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1") as origin,
            Live(config, origin.port) as live,
        ):
            client = asyncio.ensure_future(fetch(live.port))
            (writer,) = await until_writer(origin)
            await until(lambda: live.stats.bytes_out == 1)
            live.time.advance(9)
            writer.write(b"2")
            await until(lambda: live.stats.bytes_out == 2)
            live.time.advance(6.1)
            assert (await client).status == 0
            await until(live.nothing_left)

    run(main)


def test_a_route_has_times_of_its_own() -> None:
    async def main() -> None:
        route = Route(match=Match(path="/slow/*"), timeout=Timeout(request=60.0), circuit_breaker=None)
        config = Upstream(name="up", bind=ANY_PORT, timeout=Timeout(request=5.0), routes=(route,))
        async with Origin(never) as origin, Live(config, origin.port) as live:
            quick = asyncio.ensure_future(fetch(live.port))
            slow = asyncio.ensure_future(fetch(live.port, "/slow/x"))
            await until(lambda: len(origin.requests) == 2)
            live.time.advance(5.1)
            assert (await quick).error == "timeout"
            live.time.advance(54)
            await settle()
            assert not slow.done()
            live.time.advance(1.1)
            assert (await slow).error == "timeout"

    run(main)


async def until_writer(origin: Origin) -> list[asyncio.StreamWriter]:
    """The origin's connections, when there is one."""
    await until(lambda: origin.requests)
    return list(origin._writers)
