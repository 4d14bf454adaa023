"""The breaker in the chain: what counts as a failure, where permits go, and what clients see of it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.traffic import Match
from sidecar.core.replies import Reply
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE, RESET, TIMEOUT
from sidecar.filters.circuit_breaker import CircuitBreaker
from sidecar.filters.circuit_breaker import CircuitBreakerSettings as Config
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.breaker import CLOSED, HALF_OPEN, OPEN
from support.http import Message, Stage, answer
from support.ports import route_of, site


class Bench:
    """A breaker filter, and exchanges that go to it."""

    def __init__(self, endpoints: int = 1, **settings: Any) -> None:
        self.stage = Stage(endpoints=endpoints)
        self.clock = self.stage.loop
        self.cluster = self.stage.listener.cluster
        config = Config(failure_threshold=1, **settings)
        self.filter = CircuitBreaker(config, site(self.clock))
        self.mechanism = self.filter.mechanism

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

_BREAKER = Config(failure_threshold=3, timeout_duration=2.0, reset_timeout=60.0, half_open_requests=3)


def stage(endpoints: int = 1, **policies: Any) -> Stage:
    settings = {"retry": None, "timeout": TimeoutSettings(request=10.0), "circuit_breaker": _BREAKER, **policies}
    return Stage(endpoints=endpoints, **settings)


def goes(it: Stage, status: int, target: str = "/") -> Message:
    """A request that reaches the upstream, which answers that."""
    client = it.asks(f"GET {target}")
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(status)
    return client.gets()


def refused(it: Stage) -> Message:
    """A request that does not."""
    answered = it.asks().gets()
    assert it.asked() == []
    return answered


def test_open_half_open_closed() -> None:
    it = stage()
    for _ in range(3):
        assert goes(it, 500).status == 500
    answered = refused(it)
    assert (answered.status, answered.error) == (503, "circuit_open")
    assert answered.fields["retry-after"] == "60"
    it.advance(40)
    assert refused(it).fields["retry-after"] == "20"
    it.advance(20)
    for _ in range(3):
        assert goes(it, 200).status == 200
    assert it.breaker_states == [OPEN, HALF_OPEN, CLOSED]
    assert it.stats.rejected["circuit_open"] == 2
    it.over()


def test_exactly_half_open_requests_reach_the_upstream() -> None:
    it = stage()
    for _ in range(3):
        goes(it, 503)
    it.advance(60)
    clients = [it.asks() for _ in range(20)]
    upstreams = it.asked()
    assert len(upstreams) == 3
    late = [client.gets() for client in clients[3:]]
    assert {(a.status, a.error, a.fields["retry-after"]) for a in late} == {(503, "circuit_open", "1")}
    for upstream in upstreams:
        upstream.hears()
        upstream.answers()
    assert [client.gets().status for client in clients[:3]] == [200] * 3
    assert goes(it, 200).status == 200
    it.over()


def test_a_client_that_leaves_gives_its_half_open_permit_back() -> None:
    it = stage()
    for _ in range(3):
        client = it.asks()
        upstream = it.upstream()
        upstream.hears()
        upstream.breaks()
        assert client.gets().error == "upstream_reset"
    it.advance(60)
    clients = [it.asks() for _ in range(3)]
    for upstream in it.asked():
        upstream.hears()
    assert refused(it).error == "circuit_open"
    for client in clients:
        client.breaks()
    for _ in range(3):
        assert goes(it, 200).status == 200
    assert it.breaker_states[-1] == CLOSED
    it.over()


def test_a_call_without_a_head_is_cut_after_timeout_duration_and_counts() -> None:
    it = stage()
    for _ in range(3):
        client = it.asks()
        upstream = it.upstream()
        upstream.hears()
        it.advance(1.9)
        assert client.gets_nothing()
        it.advance(0.2)
        answered = client.gets()
        assert (answered.status, answered.error) == (504, "timeout")
        assert upstream.aborted
    assert refused(it).error == "circuit_open"
    it.over()


def test_a_dead_instance_under_many_connections_does_not_open_it() -> None:
    it = stage(endpoints=2, retry=RetrySettings())
    it.loop.dialled = lambda host, port: "refuse" if port == 1 else "accept"
    clients = [it.asks() for _ in range(40)]
    for upstream in it.asked():
        upstream.hears()
        upstream.answers()
    assert {client.gets().status for client in clients} == {200}
    assert it.breaker_states == []
    it.over()


def test_a_route_without_a_breaker_is_not_refused() -> None:
    it = stage(routes=(route_of(match=Match(path="/free/*"), circuit_breaker=None),))
    for _ in range(3):
        goes(it, 500)
    assert refused(it).status == 503
    assert goes(it, 500, "/free/x").status == 500
    it.over()
