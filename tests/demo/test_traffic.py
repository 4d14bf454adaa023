from __future__ import annotations

import asyncio

import aiohttp
from hypothesis import given
from hypothesis import strategies as st

from sidecar.demo.ports import free_ports
from sidecar.demo.traffic import Tally, Traffic, quantile
from support.live import Origin, Request, ok, run
from support.patience import until
from support.processes import free_port


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_between_the_others(values: list[float], q: float) -> None:
    found = quantile(values, q)
    assert found in values
    assert sum(value < found for value in values) <= q * len(values)


def test_no_values() -> None:
    assert quantile([], 0.5) == 0.0


def test_what_is_counted() -> None:
    async def main() -> None:
        answers = [
            ok(b"", "x-instance: a"),
            ok(b'{"error": "circuit_open"}', status="503 X"),
            ok(b"[]", status="500 X"),
        ]

        async def handler(request: Request) -> bytes | None:
            return answers.pop(0) if answers else None

        async with Origin(handler) as origin, aiohttp.ClientSession() as session:
            traffic = Traffic(session, "POST", f"http://127.0.0.1:{origin.port}/", 200.0)
            traffic.phase = "one"
            task = asyncio.create_task(traffic.run())
            await until(lambda: traffic.phases.get("one", Tally()).requests >= 4)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            tally = traffic.total()
            assert tally.instances == {"a": 1}
            assert tally.errors["circuit_open"] == len(tally.refusals) == 1
            assert tally.errors["status 500"] == 1
            assert tally.errors["cut off"] >= 1
            assert tally.requests == 1 + tally.errors.total()
            assert traffic.latest.keys() == {"a"}
            assert traffic.moment().rate > 0

    run(main)


def test_nobody_there_is_an_error_like_others() -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            traffic = Traffic(session, "GET", f"http://127.0.0.1:{free_port()}/", 200.0)
            task = asyncio.create_task(traffic.run())
            await until(lambda: traffic.total().errors["cut off"] >= 2)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main)


def test_ports_differ() -> None:
    ports = [port for _ in range(50) for port in free_ports(20)]
    assert len(set(ports)) == 1000, "also those that nobody has bound yet"
    assert all(1024 < port < 65536 for port in ports)
