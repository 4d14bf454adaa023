"""The breaker in the chain: what counts as a failure, where permits go, and what clients see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.config.model import CircuitBreaker as Config
from sidecar.config.model import Match, Retry, Route, Timeout, Upstream
from sidecar.core.replies import Reply
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE, RESET, TIMEOUT
from sidecar.filters.circuit_breaker import CircuitBreaker
from sidecar.resilience.breaker import CLOSED, HALF_OPEN, OPEN
from sidecar.resilience.breaker import CircuitBreaker as Mechanism
from support.http import Stage, answer
from support.live import ANY_PORT, Answer, Live, Origin, Request, fetch, ok, run, until
from support.processes import free_port


class Bench:
    """A breaker filter, and exchanges that go to it."""

    def __init__(self, endpoints: int = 1, **settings: Any) -> None:
        self.stage = Stage(endpoints=endpoints)
        self.clock = self.stage.loop
        self.cluster = self.stage.listener.cluster
        config = Config(failure_threshold=1, **settings)
        self.mechanism = Mechanism(
            config.failure_threshold, config.reset_timeout, config.half_open_requests, self.clock
        )
        self.filter = CircuitBreaker(self.mechanism, config)

    def exchange(self) -> Any:
        return self.stage.exchange()

    def allowed(self, endpoint: int = 0) -> Any:
        x = self.exchange()
        assert self.filter.on_try(x) is None
        self.stage.tries(x, endpoint)
        return x


@pytest.mark.parametrize("kind", [CONNECT, TIMEOUT, RESET, MALFORMED])
def test_a_failure_of_each_kind_opens_it(kind: str) -> None:
    bench = Bench()
    x = bench.allowed()
    bench.filter.on_failure(x, kind)
    assert bench.mechanism.state == OPEN
    assert not any(x.state)
    verdict = bench.filter.on_try(bench.exchange())
    assert isinstance(verdict, Reply)
    assert (verdict.code, verdict.retry_after) == ("circuit_open", 60.0)


@pytest.mark.parametrize(
    ("failure_on", "kind", "counts"),
    [
        ({"connect"}, CONNECT, True),
        ({"connect"}, TIMEOUT, False),
        ({"connect"}, RESET, False),
        ({"connect"}, MALFORMED, False),
        ({"reset"}, MALFORMED, True),
        ({"timeout"}, TIMEOUT, True),
        ({"connect", "timeout", "reset", "5xx"}, RACE, False),
    ],
)
def test_only_the_configured_kinds_count(failure_on: set[str], kind: str, counts: bool) -> None:
    bench = Bench(failure_on=frozenset(failure_on))
    bench.filter.on_failure(bench.allowed(), kind)
    assert (bench.mechanism.state == OPEN) is counts


@pytest.mark.parametrize(
    ("failure_on", "status", "counts"),
    [
        ({"5xx"}, 500, True),
        ({"5xx"}, 599, True),
        ({"5xx"}, 404, False),
        ({"429"}, 429, True),
        ({"429"}, 503, False),
        ({"connect"}, 500, False),
    ],
)
def test_only_the_configured_statuses_count(failure_on: set[str], status: int, counts: bool) -> None:
    bench = Bench(failure_on=frozenset(failure_on))
    bench.filter.on_answer(bench.allowed(), answer(status))
    assert (bench.mechanism.state == OPEN) is counts


def test_a_draining_peer_is_not_a_failure() -> None:
    bench = Bench()
    bench.filter.on_answer(bench.allowed(), answer(503, "x-sidecar-error: draining"))
    assert bench.mechanism.state == CLOSED


def test_a_dead_endpoint_among_others_is_not_a_failure_of_the_upstream() -> None:
    bench = Bench(endpoints=2)
    x = bench.allowed(0)
    bench.cluster.failed(x.endpoint, hard=True)
    bench.filter.on_failure(x, CONNECT)
    assert bench.mechanism.state == CLOSED
    y = bench.allowed(1)
    bench.cluster.failed(y.endpoint, hard=True)
    bench.filter.on_failure(y, CONNECT)
    assert bench.mechanism.state == OPEN  # nobody is left: now it is the upstream


@pytest.mark.parametrize("end", ["answer", "connected", "failure", "race", "client leaves", "no endpoint"])
def test_a_half_open_permit_comes_back_however_the_try_ends(end: str) -> None:
    bench = Bench(half_open_requests=1)
    bench.filter.on_failure(bench.allowed(), CONNECT)
    bench.clock.advance(60)
    x = bench.allowed()
    assert bench.mechanism.state == HALF_OPEN
    assert isinstance(bench.filter.on_try(bench.exchange()), Reply)
    if end == "answer":
        bench.filter.on_answer(x, answer(200))
    elif end == "connected":
        bench.filter.on_connected(x)
    elif end == "failure":
        bench.filter.on_failure(x, CONNECT)
    elif end == "race":
        bench.filter.on_failure(x, RACE)
    bench.filter.on_end(x)
    bench.filter.on_end(x)
    if end == "failure":
        assert bench.mechanism.state == OPEN
        bench.clock.advance(60)
    assert bench.mechanism.state == (CLOSED if end in ("answer", "connected") else HALF_OPEN)
    bench.allowed()


# -- as clients see it ---------------------------------------------------------------------

_CONFIG = Upstream(
    name="up",
    bind=ANY_PORT,
    retry=None,
    timeout=Timeout(request=10.0),
    circuit_breaker=Config(failure_threshold=3, timeout_duration=2.0, reset_timeout=60.0, half_open_requests=3),
)


def test_open_half_open_closed() -> None:
    async def main() -> None:
        async with Origin(ok(status="500 no")) as origin, Live(_CONFIG, origin.port) as live:
            for _ in range(3):
                assert (await fetch(live.port)).status == 500
            refused = await fetch(live.port)
            assert (refused.status, refused.error) == (503, "circuit_open")
            assert refused.fields["retry-after"] == "60"
            assert len(origin.requests) == 3
            live.time.advance(40)
            assert (await fetch(live.port)).fields["retry-after"] == "20"
            live.time.advance(20)
            origin.handler = ok()
            for _ in range(3):
                assert (await fetch(live.port)).status == 200
            assert live.breaker_states == [OPEN, HALF_OPEN, CLOSED]
            assert live.stats.rejected["circuit_open"] == 2

    run(main)


def test_exactly_half_open_requests_reach_the_upstream() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(_: Request) -> bytes:
            await gate.wait()
            return ok()

        async with Origin(ok(status="503 no")) as origin, Live(_CONFIG, origin.port) as live:
            for _ in range(3):
                await fetch(live.port)
            live.time.advance(60)
            origin.requests.clear()
            origin.handler = held
            clients = [asyncio.ensure_future(fetch(live.port)) for _ in range(20)]
            await until(lambda: sum(c.done() for c in clients) == 17 and len(origin.requests) == 3)
            refused = [c.result() for c in clients if c.done()]
            assert {(a.status, a.error, a.fields["retry-after"]) for a in refused} == {(503, "circuit_open", "1")}
            gate.set()
            answers: list[Answer] = await asyncio.gather(*clients)
            assert sorted(a.status for a in answers) == [200] * 3 + [503] * 17
            assert len(origin.requests) == 3
            assert (await fetch(live.port)).status == 200

    run(main)


def test_a_client_that_leaves_gives_its_half_open_permit_back() -> None:
    async def main() -> None:
        async def held(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with Origin(None) as origin, Live(_CONFIG, origin.port) as live:
            for _ in range(3):
                assert (await fetch(live.port)).error == "upstream_reset"
            live.time.advance(60)
            origin.handler = held
            origin.requests.clear()
            clients = [asyncio.ensure_future(fetch(live.port)) for _ in range(3)]
            await until(lambda: len(origin.requests) == 3)
            assert (await fetch(live.port)).error == "circuit_open"
            for client in clients:
                client.cancel()
            await until(lambda: live.stats.active == 0)
            origin.handler = ok()
            for _ in range(3):
                assert (await fetch(live.port)).status == 200
            assert live.breaker_states[-1] == CLOSED

    run(main)


def test_a_call_without_a_head_is_cut_after_timeout_duration_and_counts() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with Origin(never) as origin, Live(_CONFIG, origin.port) as live:
            for count in range(3):
                client = asyncio.ensure_future(fetch(live.port))
                await until(lambda count=count: len(origin.requests) == count + 1)  # type: ignore[misc]
                live.time.advance(2.1)
                answered = await client
                assert (answered.status, answered.error) == (504, "timeout")
            assert (await fetch(live.port)).error == "circuit_open"

    run(main)


def test_a_dead_instance_under_many_connections_does_not_open_it() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, circuit_breaker=_CONFIG.circuit_breaker, retry=Retry())
        async with Origin() as origin, Live(config, free_port(), origin.port) as live:
            answers = await asyncio.gather(*(fetch(live.port) for _ in range(40)))
            assert {a.status for a in answers} == {200}
            assert live.breaker_states == []

    run(main)


def test_a_route_without_a_breaker_is_not_refused() -> None:
    async def main() -> None:
        route = Route(match=Match(path="/free/*"), circuit_breaker=None)
        config = Upstream(
            name="up", bind=ANY_PORT, retry=None, circuit_breaker=_CONFIG.circuit_breaker, routes=(route,)
        )
        async with Origin(ok(status="500 no")) as origin, Live(config, origin.port) as live:
            for _ in range(3):
                await fetch(live.port)
            assert (await fetch(live.port)).status == 503
            assert (await fetch(live.port, "/free/x")).status == 500

    run(main)
