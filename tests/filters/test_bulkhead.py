"""The bulkhead: slots, the queue's order, its end in time, and leaving it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.errors import ConfigError
from sidecar.config.load import load_text
from sidecar.config.traffic import Match
from sidecar.core.replies import Reply
from sidecar.exchange.filter import HELD, Wait
from sidecar.filters.bulkhead import AdaptiveSettings, Bulkhead
from sidecar.filters.bulkhead import BulkheadSettings as Config
from sidecar.filters.shedding import outcome
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.adaptive_limit import GOOD, LOST, NEITHER
from sidecar.resilience.limiter import Limiter
from support.http import Client, Stage, answer
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


# -- a limit that is found, and priorities ---------------------------------------------------------


def asks(it: Stage, target: str, priority: str = "") -> Client:
    return it.asks(f"GET {target}", *([f"x-priority: {priority}"] if priority else []))


def by_priority(**more: Any) -> Stage:
    return stage(**{"max_requests": 1, "priority": "header:x-priority", **more})


def test_what_is_critical_goes_first_and_any_other_value_is_normal() -> None:
    it = by_priority()
    first = asks(it, "/first")
    words = ("low", "", "urgent", " CRITICAL\t")
    clients = {f"/{n}": asks(it, f"/{n}", word) for n, word in enumerate(words)}
    assert it.filter(Bulkhead).view()["waiting"] == {"critical": 1, "normal": 2, "low": 1}
    for target, client in (("/first", first), *((t, clients[t]) for t in ("/3", "/1", "/2", "/0"))):
        upstream = it.upstream()
        assert upstream.hears().target == target
        upstream.answers()
        assert client.gets().status == 200
    assert it.nothing_left()
    it.over()


def test_a_full_queue_gives_its_places_to_what_is_critical() -> None:
    it = by_priority(max_pending=1)
    first, low = asks(it, "/1"), asks(it, "/2", "low")
    assert asks(it, "/3", "low").gets().error == "overloaded"
    critical = asks(it, "/4", "critical")
    shed = low.gets()
    assert (shed.status, shed.error) == (503, "overloaded")
    assert it.stats.shed == {"low": 2}
    assert it.filter(Bulkhead).view()["shed"] == {"critical": 0, "normal": 0, "low": 2}
    for client in (first, critical):
        upstream = it.upstream()
        upstream.hears()
        upstream.answers()
        assert client.gets().status == 200
    assert it.nothing_left()
    it.over()


def test_one_that_is_shed_as_its_client_leaves_or_its_time_is_over() -> None:
    it = by_priority(max_pending=1, pending_timeout=3.0)
    asks(it, "/1")
    low = asks(it, "/2", "low")
    critical = asks(it, "/3", "critical")
    low.transport.lose(ConnectionResetError())
    it.advance(3.1)
    assert critical.gets().error == "overloaded"
    assert it.stats.shed == {"low": 1, "critical": 1}
    it.upstream().answers()
    assert it.nothing_left()
    it.over()


def answered(it: Stage, times: int) -> None:
    """So many requests, each answered at once."""
    for n in range(times):
        client = it.asks(f"GET /{n}")
        upstream = it.upstream()
        upstream.hears()
        upstream.answers()
        assert client.gets().status == 200
        client.breaks()


def test_a_limit_that_is_found_begins_low_and_goes_by_what_is_done() -> None:
    it = stage(adaptive=AdaptiveSettings(min=1, max=50), max_requests=0, max_connections=0)
    bulkhead = it.filter(Bulkhead)
    assert it.stats.limit == bulkhead.limiter.limit == 20
    answered(it, 3)
    clients = [it.asks(f"GET /{n}") for n in range(25)]
    view = bulkhead.view()
    assert (view["in_flight"], view["waiting"]["normal"]) == (20, 5)
    assert view["level"] < 20, "it tries whether less do as well"
    for _ in clients:
        upstream = it.upstream()
        upstream.hears()
        upstream.answers()
    assert [client.gets().status for client in clients] == [200] * 25
    assert it.nothing_left()
    it.over()


def test_what_an_end_says_about_the_upstream() -> None:
    bench = Bench(adaptive=AdaptiveSettings(), max_requests=0)

    def ends(**what: Any) -> int:
        x, _ = bench.ask()
        bench.stage.tries(x)
        head = what.pop("answered", 0)
        if head:
            x.answer = answer(head)
        failed = what.pop("failed", "")
        if failed:
            x.attempt.failure = failed
        for name, value in what.items():
            setattr(x, name, value)
        bench.filter.on_end(x)
        return outcome(x)

    assert ends(answered=200, status=200) == GOOD
    assert ends(answered=404, status=404) == GOOD
    assert ends(answered=200, status=499) == GOOD  # it left in the middle
    assert ends(status=499) == LOST
    assert ends(failed="timeout", status=504, error="timeout") == LOST
    assert ends(status=504, error="timeout") == NEITHER  # the client sent too slowly
    assert ends(failed="connect", status=502, error="connect_failed") == NEITHER
    assert ends(answered=503, status=503) == NEITHER
    assert ends(answered=429, status=429) == NEITHER
    assert ends(answered=200, status=200, error="upstream_reset") == NEITHER
    assert ends(status=200) == NEITHER  # an answer of a filter's
    assert bench.filter.limiter.active == 0


def test_a_reload_keeps_what_was_learnt_and_who_waits() -> None:
    bench = Bench(adaptive=AdaptiveSettings(max=50), max_requests=0)
    limiter: Any = bench.filter.limiter
    limiter.adaptive.estimate = 12.0
    held = [bench.ask()[0] for _ in range(25)]
    assert bench.filter.adapt(Config(adaptive=AdaptiveSettings(max=60), max_requests=0, priority="header:x-p"))
    assert (limiter.limit, limiter.active, limiter.adaptive.ceiling) == (12, 20, 60)
    assert bench.filter.adapt(Config(adaptive=AdaptiveSettings(max=7), max_requests=0))
    assert limiter.limit == 7
    for x in held:
        bench.filter.on_end(x)
    assert (limiter.active, bench.stats.pending) == (0, 0)
    assert not bench.filter.adapt(Config(max_requests=3))
    assert not Bench(max_requests=3).filter.adapt(Config(priority="header:x-priority"))


def test_a_tunnel_gives_its_slot_back() -> None:
    it = stage(adaptive=AdaptiveSettings(min=1, max=1), max_requests=0)
    client = it.asks("GET /ws", "connection: upgrade", "upgrade: websocket")
    upstream = it.upstream()
    upstream.hears()
    upstream.says(b"HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert it.stats.tunnels == 1
    assert it.filter(Bulkhead).limiter.active == 0
    client.breaks()
    it.over()


def test_the_ports_limit_is_shown_and_no_routes() -> None:
    own = route_of(match=Match(path="/own/*"), bulkhead=Config(adaptive=AdaptiveSettings(max=5), max_requests=0))
    it = Stage(retry=None, bulkhead=Config(adaptive=AdaptiveSettings(), max_requests=0), routes=(own,))
    assert it.stats.limit == 20
    it.over()


@pytest.mark.parametrize("settings", [{"max_requests": 1}, {"max_requests": 1, "priority": "header:x-priority"}])
def test_one_that_another_filter_has_taken_over_gets_no_slot(settings: dict[str, Any]) -> None:
    """Its time was over, and it is answered otherwise, or stored; the next one has its turn."""
    bench = Bench(**settings)
    first, _ = bench.ask()
    second, wait = bench.ask()
    third, other = bench.ask()
    second._wait(wait)
    third._wait(other)
    second.take_over()
    bench.filter.on_end(first)
    assert (second.state[0], second.suspended) == (None, HELD)
    assert third.suspended is None
    bench.filter.on_end(third)
    bench.filter.on_end(second)
    assert (bench.filter.limiter.active, bench.stats.pending) == (0, 0)


# -- in the configuration --------------------------------------------------------------------------


def problems(bulkhead: str, protocol: str = "http") -> list[str]:
    text = (
        "service: {name: s}\nupstreams:\n  up: {bind: 127.0.0.1:9000, endpoints: ['127.0.0.1:1'], "
        f"protocol: {protocol}, bulkhead: {bulkhead}}}\n"
    )
    try:
        load_text(text, "f.yaml", {})
    except ConfigError as error:
        return [f"{it.path}: {it.message}" for it in error.problems]
    return []


@pytest.mark.parametrize(
    ("bulkhead", "said"),
    [
        ("{adaptive: {min: 9, max: 5}}", "adaptive.min: leaves no limit: min is above max"),
        ("{adaptive: {max: 3}}", "adaptive.max: leaves no limit"),
        ("{adaptive: {}, max_requests: 20}", "max_requests: is a fixed limit, and adaptive finds one"),
        ("{adaptive: {}, max_connections: 100}", "max_connections: is less than adaptive.max"),
        ("{priority: x-priority}", "priority: does not say which header"),
        ('{priority: "header:x", max_pending: 0}', "max_pending: lets none wait"),
        ('{priority: "header:x", pending_timeout: 0}', "pending_timeout: lets none wait"),
    ],
)
def test_what_does_not_fit_together(bulkhead: str, said: str) -> None:
    (found,) = problems(bulkhead)
    assert found.startswith(f"upstreams.up.bulkhead.{said}")


@pytest.mark.parametrize("bulkhead", ["{adaptive: {}}", '{priority: "header:x"}'])
def test_it_is_for_http_only(bulkhead: str) -> None:
    assert not problems(bulkhead)
    assert problems(bulkhead, "tcp")


def test_connections_are_as_many_as_the_limit_may_be() -> None:
    config = Config(adaptive=AdaptiveSettings(max=300))
    given: dict[str, Any] = {"adaptive": config.adaptive}
    Config.complete(given)
    assert given == {"adaptive": config.adaptive, "max_connections": 300, "max_requests": 0}
