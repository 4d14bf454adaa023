"""The bulkhead: slots, the queue's order, its end in time, and leaving it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.traffic import Match
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Wait
from sidecar.filters.bulkhead import Bulkhead
from sidecar.filters.bulkhead import BulkheadSettings as Config
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.limiter import Limiter
from support.http import Stage
from support.ports import route_of, site


class Bench:
    def __init__(self, protocol: str = "http", **settings: Any) -> None:
        self.stage = Stage(protocol=protocol)
        self.stats = self.stage.stats
        self.filter = Bulkhead(Config(**settings), site(self.stage.loop, stats=self.stats))

    def ask(self) -> tuple[Any, Any]:
        x = self.stage.exchange()
        return x, self.filter.on_request(x)


def holds(x: Any) -> bool:
    """It has a slot."""
    return isinstance(x.state[0], Limiter)


def test_slots_then_the_queue_then_no_more() -> None:
    bench = Bench(max_requests=2, max_pending=2)
    held = [bench.ask() for _ in range(2)]
    assert [verdict for _, verdict in held] == [None, None]
    waiting = [bench.ask() for _ in range(2)]
    assert [type(verdict) for _, verdict in waiting] == [Wait, Wait]
    assert bench.stats.pending == 2
    _, refused = bench.ask()
    assert isinstance(refused, Reply)
    assert (refused.code, refused.retry_after) == ("overloaded", 1.0)
    assert refused.message == "2 in progress and 2 waiting: up takes no more"


def test_first_in_first_out() -> None:
    bench = Bench(max_requests=1, max_pending=10)
    first, _ = bench.ask()
    queue = [bench.ask()[0] for _ in range(5)]
    order = [first, *queue]
    for n, x in enumerate(order):
        assert [holds(y) for y in order] == [k == n for k in range(6)]
        bench.filter.on_end(x)
    assert bench.filter.limiter.active == 0
    assert bench.stats.pending == 0


def test_who_leaves_the_queue_is_passed_over() -> None:
    bench = Bench(max_requests=1, max_pending=10)
    first, _ = bench.ask()
    second, _ = bench.ask()
    third, _ = bench.ask()
    bench.filter.on_end(second)
    assert bench.stats.pending == 1
    bench.filter.on_end(first)
    assert not holds(second)
    assert holds(third)


def test_a_slot_goes_back_once() -> None:
    bench = Bench(max_requests=1)
    x, _ = bench.ask()
    bench.filter.on_end(x)
    bench.filter.on_end(x)
    assert bench.filter.limiter.active == 0


def test_a_slot_granted_to_somebody_who_is_gone_by_then_goes_on() -> None:
    bench = Bench(max_requests=1, max_pending=10)
    first, _ = bench.ask()
    second, _ = bench.ask()
    third, _ = bench.ask()
    bench.filter.on_end(first)
    assert holds(second)
    bench.filter.on_end(second)  # its client left before it could go on
    assert holds(third)


@pytest.mark.parametrize(
    ("protocol", "settings", "limit"),
    [
        ("http", {"max_connections": 3, "max_requests": 2}, 2),
        ("http", {"max_connections": 2, "max_requests": 3}, 2),
        ("http", {"max_connections": 0, "max_requests": 3}, 3),
        ("http", {"max_connections": 3, "max_requests": 0}, 3),
        ("http", {"max_connections": 0, "max_requests": 0}, 0),
        ("tcp", {"max_connections": 3, "max_requests": 2}, 3),
    ],
)
def test_the_limit(protocol: str, settings: dict[str, int], limit: int) -> None:
    assert Bench(protocol, **settings).filter.limiter.limit == limit


@pytest.mark.parametrize("settings", [{"max_pending": 0}, {"pending_timeout": 0.0}])
def test_without_a_queue_nobody_waits(settings: dict[str, Any]) -> None:
    bench = Bench(max_requests=1, **settings)
    bench.ask()
    assert isinstance(bench.ask()[1], Reply)


def test_waiting_ends_with_the_exchanges_own_deadline() -> None:
    bench = Bench(max_requests=1, pending_timeout=60.0)
    bench.ask()
    x, wait = bench.ask()
    assert wait.until == x.deadline


def test_other_settings_keep_what_is_under_way() -> None:
    bench = Bench(max_requests=2, max_pending=10)
    held = [bench.ask()[0] for _ in range(2)]
    waiting = [bench.ask()[0] for _ in range(2)]
    bench.filter.adapt(Config(max_requests=3, max_pending=1))
    assert [holds(x) for x in waiting] == [True, False]
    bench.filter.adapt(Config(max_requests=1, max_pending=1))
    for x in (*held, waiting[0]):
        assert not holds(waiting[1])
        bench.filter.on_end(x)
    assert holds(waiting[1])


# -- as clients see it ---------------------------------------------------------------------


def stage(**settings: Any) -> Stage:
    return Stage(retry=None, bulkhead=Config(**settings))


def test_requests_wait_in_their_order() -> None:
    it = stage(max_requests=1)
    clients = [it.asks(f"GET /{n}") for n in range(4)]
    assert it.stats.pending == 3
    for n, client in enumerate(clients):
        upstream = it.upstream()
        assert upstream.hears().target == f"/{n}"
        assert it.asked() == []
        upstream.answers(200, b"%d" % n)
        assert client.gets().body == b"%d" % n
    assert it.nothing_left()
    it.over()


def test_a_full_queue_and_a_wait_that_is_too_long() -> None:
    it = stage(max_requests=1, max_pending=1, pending_timeout=3.0)
    first, second = it.asks("GET /1"), it.asks("GET /2")
    assert it.stats.pending == 1
    refused = it.asks("GET /3").gets()
    assert (refused.status, refused.error, refused.fields["retry-after"]) == (503, "overloaded", "1")
    it.advance(2.9)
    assert second.gets_nothing()
    it.advance(0.2)
    late = second.gets()
    assert (late.status, late.error) == (503, "overloaded")
    assert it.stats.pending == 0
    upstream = it.upstream()
    upstream.hears()
    upstream.answers()
    assert first.gets().status == 200
    assert it.asked() == []
    assert it.nothing_left()
    it.over()


def test_a_client_that_leaves_the_queue_is_never_sent() -> None:
    it = stage(max_requests=1)
    first, leaving, third = (it.asks(f"GET /{n}") for n in range(3))
    assert it.stats.pending == 2
    leaving.breaks()
    assert it.stats.pending == 1
    for target, client in (("/0", first), ("/2", third)):
        upstream = it.upstream()
        assert upstream.hears().target == target
        upstream.answers()
        assert client.gets().status == 200
    assert it.asked() == []
    assert it.nothing_left()
    it.over()


def test_a_slot_of_a_client_that_leaves_in_the_moment_of_its_turn_comes_back() -> None:
    it = stage(max_requests=1)
    first, second = it.asks("GET /1"), it.asks("GET /2")
    it.upstream().hears()
    # In one turn of the loop: the first ends, the second is granted its slot and loses its client.
    first.transport.lose(ConnectionResetError())
    assert it.stats.pending == 0
    second.transport.lose(ConnectionResetError())
    assert it.nothing_left()
    assert it.asked() == []
    it.over()


def test_when_a_client_leaves_the_next_one_gets_its_connection_too() -> None:
    it = stage(max_requests=1, max_connections=1)
    first, second = it.asks("GET /1"), it.asks("GET /2")
    assert it.upstream().hears().target == "/1"
    first.breaks()
    upstream = it.upstream()
    assert upstream.hears().target == "/2"
    upstream.answers()
    assert second.gets().status == 200
    it.over()


def test_a_route_has_a_bulkhead_of_its_own_or_shares_the_listeners() -> None:
    routes = (
        route_of(match=Match(path="/own/*"), bulkhead=Config(max_requests=1, max_pending=0)),
        route_of(match=Match(path="/off/*"), bulkhead=None),
        route_of(match=Match(path="/shared/*"), timeout=TimeoutSettings(request=5.0)),
    )
    it = Stage(retry=None, bulkhead=Config(max_requests=1, max_pending=0), routes=routes)
    clients = [it.asks(f"GET {target}") for target in ("/x", "/own/x", "/off/1", "/off/2")]
    for target in ("/y", "/own/y", "/shared/y"):
        assert it.asks(f"GET {target}").gets().error == "overloaded"
    for upstream in it.asked():
        upstream.hears()
        upstream.answers()
    assert [client.gets().status for client in clients] == [200] * 4
    it.over()


def test_what_there_are_where_no_limit_is_set() -> None:
    bench = Bench("tcp", max_connections=0)
    mine = Bulkhead(Config(max_connections=0), site(bench.stage.loop, "amqp", pairs=480))
    assert mine.limiter.limit == 480
    mine.adapt(Config(max_connections=7))
    assert mine.limiter.limit == 7
    mine.adapt(Config(max_connections=0))
    assert mine.limiter.limit == 480
    assert bench.filter.limiter.limit == 0
