"""Waiting for an upstream to come back, in place of an error at once."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.traffic import Match
from sidecar.filters.bulkhead import AdaptiveSettings, BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.filters.wait import Waiting, WaitSettings
from sidecar.resilience.breaker import FIRST_RESET, OPEN
from support.http import Client, Stage
from support.ports import route_of


def accept(host: str, port: int) -> str:
    return "accept"


def stage(**more: Any) -> Stage:
    return Stage(**{"wait": WaitSettings(timeout=5.0, max=100), "retry": None, "why": True, **more})


def counts(it: Stage) -> dict[str, int]:
    return {name: n for name, n in it.stats.filters["wait"].counts.items() if n}


def served(it: Stage) -> list[str]:
    """Answer all that the upstream has been asked; the targets."""
    found = []
    for server in it.asked():
        while (message := server.message()) is not None:
            found.append(message.target)
            server.answers(200)
    return found


def test_it_goes_on_when_endpoints_appear() -> None:
    it = stage(endpoints=0)
    client = it.asks("GET /a")
    it.advance(2.0)
    assert client.gets_nothing()
    assert it.stats.waiting == 1
    assert it.filter(Waiting).view() == {"waiting": 1, "max": 100, "under_trial": 0}
    it.endpoints(1)
    it.advance(0.1)
    assert served(it) == ["/a"]
    answer = client.gets()
    assert (answer.status, answer.error) == (200, "")
    assert counts(it) == {"began": 1, "passed": 1}
    (story,) = it.stories
    assert {"wait", "wait_over"} <= {event["what"] for event in story["events"]}
    it.over()


def test_in_vain_it_gets_the_answer_that_it_would_have_got() -> None:
    it = stage(endpoints=0)
    client = it.asks("GET /a")
    it.advance(4.9)
    assert client.gets_nothing()
    it.advance(0.2)
    answer = client.gets()
    assert (answer.status, answer.error) == (503, "no_endpoints")
    assert counts(it) == {"began": 1, "timed_out": 1}
    assert it.nothing_left()
    it.over()


def test_it_waits_within_its_own_deadline() -> None:
    it = stage(endpoints=0, timeout=TimeoutSettings(request=1.0))
    client = it.asks("GET /a")
    it.advance(1.1)
    assert client.gets().error == "no_endpoints"
    it.over()


def test_one_that_cannot_be_reached_is_asked_by_one_at_a_time_and_ever_more_rarely() -> None:
    it = stage(circuit_breaker=None)
    it.loop.dialled = lambda host, port: "refuse"
    clients = [it.asks(f"GET /{n}") for n in range(3)]
    it.advance(3.0)
    tries = it.listener.cluster.endpoints[0].tries
    assert all(client.gets_nothing() for client in clients)
    assert 5 <= tries <= 10  # one of the first; then pauses of 0.1, 0.2, 0.4, 0.8 and 1 s
    it.loop.dialled = accept
    it.advance(1.2)
    assert served(it) == ["/0"]
    it.advance(0.1)
    assert sorted(served(it)) == ["/1", "/2"]
    assert [client.gets().status for client in clients] == [200, 200, 200]
    it.over()


def test_first_come_first_served_and_newcomers_behind_them() -> None:
    it = stage(endpoints=0, circuit_breaker=None)
    clients = [it.asks(f"GET /{n}") for n in range(4)]
    it.endpoints(1)
    late = it.asks("GET /late")
    rounds = []
    for _ in range(3):
        it.advance(0.1)
        rounds.append(sorted(served(it)))
    assert rounds == [["/0"], ["/1", "/2"], ["/3", "/late"]]
    assert all(client.gets().status == 200 for client in [*clients, late])
    it.over()


def test_a_stream_of_newcomers_holds_nobody_up() -> None:
    it = stage(endpoints=0)
    clients = []
    for number in range(20):
        clients.append(it.asks(f"GET /{number}"))
        it.advance(0.04)
        if number == 5:
            it.endpoints(1)
        served(it)
    it.advance(0.2)
    served(it)
    assert [client.gets().status for client in clients] == [200] * 20
    it.over()


def test_with_too_many_waiting_the_next_one_is_answered_at_once() -> None:
    it = stage(endpoints=0, wait=WaitSettings(timeout=5.0, max=1))
    first = it.asks("GET /a")
    assert it.asks("GET /b").gets().error == "no_endpoints"
    assert first.gets_nothing()
    assert counts(it) == {"began": 1, "full": 1}
    it.over()


def test_a_client_that_leaves_gives_its_place_to_others() -> None:
    it = stage(endpoints=0, wait=WaitSettings(timeout=5.0, max=1))
    first = it.asks("GET /a")
    first.breaks()
    second = it.asks("GET /b")
    assert second.gets_nothing()
    assert it.stats.waiting == 1
    it.endpoints(1)
    it.advance(0.1)
    assert served(it) == ["/b"]
    it.over()


def test_what_waits_holds_no_slot_of_the_bulkhead_and_takes_one_again() -> None:
    routes = (route_of(match=Match(path="/other"), wait=None, circuit_breaker=None),)
    it = stage(endpoints=1, bulkhead=BulkheadSettings(max_requests=1, max_pending=0), routes=routes)
    it.loop.dialled = lambda host, port: "refuse"
    waiting = it.asks("GET /a")
    assert waiting.gets_nothing()
    assert it.counts()["slots"] == 0
    it.loop.dialled = accept
    busy = it.asks("GET /other")
    assert it.counts()["slots"] == 1
    it.advance(0.2)  # it is let go, and finds the bulkhead full
    assert waiting.gets().error == "overloaded"
    assert served(it) == ["/other"]
    assert busy.gets().status == 200
    assert it.counts()["slots"] == 0
    it.over()


def test_an_open_breaker_is_waited_for_and_asked_sooner_as_nobody_loses_by_it() -> None:
    it = stage(circuit_breaker=CircuitBreakerSettings(failure_threshold=1, half_open_requests=1))
    it.loop.dialled = lambda host, port: "refuse"
    clients = [it.asks(f"GET /{n}") for n in range(3)]
    assert it.breaker_states == [OPEN]
    assert it.stats.waiting == 3
    it.loop.dialled = accept
    it.advance(FIRST_RESET - 0.1)
    assert it.asked() == []
    it.advance(0.2)
    assert served(it) == ["/0"]  # one trial call
    it.advance(0.1)
    assert served(it) == ["/1", "/2"]
    assert [client.gets().status for client in clients] == [200, 200, 200]
    it.over()


def test_an_open_breaker_without_it_keeps_its_time() -> None:
    it = Stage(retry=None, circuit_breaker=CircuitBreakerSettings(failure_threshold=1))
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    refusal = it.asks().gets()
    assert (refusal.error, refusal.fields["retry-after"]) == ("circuit_open", "60")
    it.over()


def test_a_permit_that_is_not_used_is_given_back() -> None:
    it = stage(endpoints=0, circuit_breaker=CircuitBreakerSettings(half_open_requests=1))
    breaker = it.listener.breakers[0]
    breaker.force("open", seconds=0.0)
    breaker.force("auto")
    assert it.asks("GET /a").gets_nothing()
    assert breaker.room() > 0
    it.over()


def test_a_peers_word_that_its_app_is_away_is_waited_for() -> None:
    it = stage(circuit_breaker=None)
    it.endpoints(1, sidecars=True)
    client = it.asks("POST /a", body=b"hello")
    server = it.upstream()
    server.hears()
    server.answers(502, b"{}", "x-sidecar-error: connect_failed")
    assert client.gets_nothing()
    it.advance(0.2)
    again = it.upstream()
    assert again.hears().body == b"hello"
    again.answers(200)
    assert client.gets().status == 200
    it.over()


def test_what_was_tried_again_below_is_not_tried_again_here() -> None:
    it = stage(circuit_breaker=None)
    it.endpoints(1, sidecars=True)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(502, b"{}", "x-sidecar-error: connect_failed", "x-sidecar-retried: 3")
    assert client.gets().status == 502
    assert not counts(it)
    it.over()


def test_with_a_limit_that_is_found_a_waiting_one_holds_nothing_either() -> None:
    it = stage(bulkhead=BulkheadSettings(max_requests=0, adaptive=AdaptiveSettings()))
    it.loop.dialled = lambda host, port: "refuse"
    client = it.asks("GET /a")
    assert client.gets_nothing()
    assert it.counts()["slots"] == 0
    it.loop.dialled = accept
    it.advance(0.2)
    assert served(it) == ["/a"]
    assert client.gets().status == 200
    assert it.counts()["slots"] == 0
    it.over()


def test_its_own_answers_are_passed_on() -> None:
    it = stage(circuit_breaker=None)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(503)
    answer = client.gets()
    assert (answer.status, answer.error) == (503, "")
    it.over()


def test_what_was_sent_and_not_answered_is_not_sent_again() -> None:
    it = stage(circuit_breaker=None)
    client = it.asks("POST /a", body=b"x")
    server = it.upstream()
    server.hears()
    server.transport.lose(ConnectionResetError())
    it.loop.settle()
    assert client.gets().error == "upstream_reset"
    it.over()


def test_the_last_of_its_vain_tries_is_told() -> None:
    it = stage(circuit_breaker=None)
    it.loop.dialled = lambda host, port: "refuse"
    client = it.asks("GET /a")
    it.advance(5.2)
    assert client.gets().error == "connect_failed"
    (story,) = it.stories
    whats = [event["what"] for event in story["events"]]
    assert whats.count("wait") == 1
    assert whats.count("refused") == 3  # the first and the last try's, and when its time was over
    assert "waited_too_long" in whats
    it.over()


def test_with_retries_it_waits_when_they_have_given_up() -> None:
    it = stage(retry=RetrySettings(max_attempts=2, initial_delay=0.0, jitter=False), circuit_breaker=None)
    it.loop.dialled = lambda host, port: "refuse"
    client = it.asks("GET /a")
    assert it.listener.cluster.endpoints[0].tries == 2
    it.loop.dialled = accept
    it.advance(0.2)
    assert served(it) == ["/a"]
    assert client.gets().status == 200
    it.over()


def test_a_drain_ends_the_waiting() -> None:
    it = stage(endpoints=0)
    clients = [it.asks("GET /a"), it.asks("GET /b")]
    it.listener.drain()
    it.advance(0.1)
    assert [client.gets().error for client in clients] == ["no_endpoints", "no_endpoints"]
    it.over()


def test_other_settings_are_for_those_who_come_then() -> None:
    it = stage(endpoints=0)
    before = it.filter(Waiting)
    first = it.asks("GET /a")
    it.reload(wait=WaitSettings(timeout=1.0))
    assert it.filter(Waiting) is before
    second = it.asks("GET /b")
    it.advance(1.1)
    assert second.gets().error == "no_endpoints"
    assert first.gets_nothing()
    it.reload(wait=None)
    it.endpoints(1)
    it.advance(0.1)
    assert served(it) == ["/a"]
    assert first.gets().status == 200
    it.over()


def test_rooms_of_routes_with_a_breaker_of_their_own_are_apart() -> None:
    own = CircuitBreakerSettings(failure_threshold=1)
    routes = (route_of(match=Match(path="/own"), circuit_breaker=own),)
    it = stage(routes=routes)
    it.loop.dialled = lambda host, port: "refuse"
    held = it.asks("GET /own")
    it.loop.dialled = accept
    free = it.asks("GET /free")
    assert served(it) == ["/free"]
    assert free.gets().status == 200
    assert held.gets_nothing()
    it.over()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_tcp_connection_waits(comes_back: bool) -> None:
    it = stage(protocol="tcp", endpoints=0)
    client: Client = it.client()
    client.says(b"ping")
    it.advance(3.0)
    assert it.stats.waiting == 1
    if comes_back:
        it.endpoints(1)
        it.advance(0.1)
        (server,) = it.accepted
        assert server.heard() == b"ping"
        assert counts(it) == {"began": 1, "passed": 1}
    else:
        it.advance(2.2)
        assert client.transport.gone
        assert counts(it) == {"began": 1, "timed_out": 1}
    it.over()


def test_a_tcp_connection_that_cannot_be_made_waits_too() -> None:
    it = stage(protocol="tcp", circuit_breaker=None)
    it.loop.dialled = lambda host, port: "refuse"
    client = it.client()
    it.advance(1.0)
    assert not client.transport.gone
    it.loop.dialled = accept
    it.advance(1.2)
    (server,) = it.accepted
    assert server.connected
    it.over()


def test_one_that_comes_back_to_another_room_takes_nobodys_place() -> None:
    it = stage(endpoints=0, retry=RetrySettings(jitter=False, initial_delay=1.0, on=frozenset({"500", "connect"})))
    first = it.asks("GET /first")
    it.endpoints(1)
    it.advance(0.1)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(500)  # it is there, and the room is empty
    it.loop.settle()
    it.endpoints(0)
    second = it.asks("GET /second")
    it.advance(1.5)
    assert it.stats.waiting == 2
    first.breaks()
    it.loop.settle()
    assert it.stats.waiting == 1
    it.endpoints(1)
    it.advance(0.2)
    assert served(it) == ["/second"]
    assert second.gets().status == 200
    it.over()
