"""A second try beside a slow first one: when it begins, which one counts, and that nothing is left of the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.agent import Tracing
from sidecar.config.fallback import AnswerSettings, StepSettings
from sidecar.endpoints.endpoint import Endpoint
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreaker, CircuitBreakerSettings
from sidecar.filters.retry import LEAST, BudgetSettings, HedgeSettings, Retry, RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.breaker import HALF_OPEN
from support.examples import examples
from support.http import Server, Stage


def stage(endpoints: int = 2, *, after: float = 0.5, **more: Any) -> Stage:
    retry = {"jitter": False, "initial_delay": 0.0, "hedge": HedgeSettings(after=after), **more.pop("retry", {})}
    breaker = more.pop("circuit_breaker", CircuitBreakerSettings(failure_threshold=100))
    return Stage(endpoints=endpoints, retry=RetrySettings(**retry), circuit_breaker=breaker, **more)


def both(it: Stage) -> tuple[Server, Server]:
    """The first try, which stays silent, and the one beside it."""
    first = it.upstream()
    first.hears()
    it.advance(0.55)
    second = it.upstream()
    second.hears()
    assert first is not second
    assert sum(endpoint.active for endpoint in it.listener.cluster.endpoints) == 2
    assert all(endpoint.active == 1 for endpoint in it.listener.cluster.endpoints[:2])
    return first, second


def active(it: Stage) -> int:
    return sum(endpoint.active for endpoint in it.listener.cluster.endpoints)


def test_the_quicker_one_counts_and_the_other_is_cut_off() -> None:
    it = stage(why=True)
    client = it.asks()
    first, second = both(it)
    second.answers(200, b"second")
    assert client.gets().body == b"second"
    assert (first.connected, active(it)) == (False, 0)
    assert it.stats.hedges == {"won": 1}
    assert it.records[-1].attempts == 2
    assert it.stats.retries == {}
    client.asks()  # the winner's connection is kept
    assert it.upstream().hears().method == "GET"
    it.over()


def test_the_first_may_still_be_quicker() -> None:
    it = stage()
    client = it.asks()
    first, second = both(it)
    first.answers(200, b"first")
    assert client.gets().body == b"first"
    assert (second.connected, active(it)) == (False, 0)
    assert it.stats.hedges == {"lost": 1}
    it.over()


def test_a_streamed_answer_wins_with_its_head() -> None:
    it = stage()
    client = it.asks()
    first, second = both(it)
    second.says(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
    assert not first.connected
    assert active(it) == 1
    second.says(b"cd")
    assert client.gets().body == b"abcd"
    assert it.nothing_left()
    it.over()


def test_an_answer_in_time_needs_no_second() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    it.advance(0.4)
    upstream.answers()
    it.advance(1.0)
    assert client.gets().status == 200
    assert it.stats.hedges == {}
    it.over()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["reset", "503", "malformed"])
def test_one_that_fails_leaves_the_other_one(which: int, how: str) -> None:
    it = stage()
    client = it.asks()
    pair = both(it)
    if how == "reset":
        pair[which].breaks()
    elif how == "503":
        pair[which].answers(503)
    else:
        pair[which].says(b"nonsense\r\n\r\n")
    assert client.gets_nothing()
    assert active(it) == 1
    assert it.asked() == []
    it.advance(5)
    pair[1 - which].answers(200, b"good")
    assert client.gets().body == b"good"
    assert it.stats.hedges == ({"lost": 1} if which else {"won": 1})
    assert it.stats.retries == {}
    it.over()


def test_when_both_fail_it_is_tried_again_as_ever() -> None:
    it = stage(endpoints=3)
    client = it.asks()
    for upstream in both(it):
        upstream.answers(503)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503)
    assert client.gets().fields["x-sidecar-retried"] == "3"
    assert it.stats.retries == {"503": 1}
    assert it.stats.hedges == {"lost": 1}
    it.over()


def test_an_answer_that_is_not_tried_again_counts() -> None:
    it = stage()
    client = it.asks()
    first, second = both(it)
    second.answers(404)
    assert client.gets().status == 404
    assert not first.connected
    it.over()


def test_both_are_silent_until_the_deadline() -> None:
    it = stage(timeout=TimeoutSettings(request=5.0))
    client = it.asks()
    pair = both(it)
    it.advance(4.4)
    assert client.gets_nothing()
    it.advance(0.2)
    assert client.gets().error == "timeout"
    assert not any(upstream.connected for upstream in pair)
    assert it.stats.hedges == {"failed": 1}
    assert it.nothing_left()
    it.over()


def test_a_client_that_leaves_takes_both_along() -> None:
    it = stage()
    client = it.asks()
    pair = both(it)
    client.breaks()
    assert not any(upstream.connected for upstream in pair)
    assert it.stats.hedges == {"failed": 1}
    assert it.nothing_left()
    it.over()


def test_a_second_that_gets_no_connection() -> None:
    it = stage()
    client = it.asks()
    first = it.upstream()
    first.hears()
    it.loop.dialled = lambda host, port: "refuse"
    it.advance(0.6)
    assert active(it) == 1
    first.answers()
    assert client.gets().status == 200
    assert it.stats.hedges == {"lost": 1}
    it.over()


def test_the_first_fails_while_the_second_connects() -> None:
    it = stage()
    client = it.asks()
    first = it.upstream()
    first.hears()
    it.loop.dialled = lambda host, port: "silent"
    it.advance(0.6)
    assert active(it) == 2
    first.breaks()
    assert active(it) == 1
    it.loop.dialled = lambda host, port: "accept"
    it.advance(1.0)  # timeout.connect of the second; there is no other endpoint, so it waits for nothing
    upstream = it.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    it.over()


def test_a_winner_stops_the_other_ones_connecting() -> None:
    it = stage()
    client = it.asks()
    first = it.upstream()
    first.hears()
    it.loop.dialled = lambda host, port: "silent"
    it.advance(0.6)
    first.answers()
    assert client.gets().status == 200
    assert it.nothing_left()
    it.over()


@pytest.mark.parametrize(
    ("line", "fields", "body"),
    [("POST /", (), b"x"), ("POST /", (), b""), ("GET /", ("connection: upgrade", "upgrade: websocket"), b"")],
)
def test_what_may_not_be_repeated_has_no_second(line: str, fields: tuple[str, ...], body: bytes) -> None:
    it = stage()
    it.asks(line, *fields, body=body)
    it.upstream().hears()
    it.advance(5)
    assert it.asked() == []
    assert it.stats.hedges == {}
    it.over()


def test_a_body_that_is_kept_goes_twice_and_one_that_still_comes_does_not() -> None:
    it = stage()
    client = it.asks("PUT /", body=b"whole")
    first = it.upstream()
    first.hears()
    it.advance(0.6)
    second = it.upstream()
    assert second.hears().body == b"whole"
    second.answers()
    assert client.gets().status == 200
    client.says(b"PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhal")
    it.advance(0.6)
    assert it.stats.hedges == {"won": 1}
    it.over()


def test_there_is_nowhere_else_to_ask() -> None:
    it = stage(endpoints=1)
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    it.advance(5)
    upstream.answers()
    assert client.gets().status == 200
    assert it.stats.hedges == {}
    it.over()


def test_the_budget_pays_for_it() -> None:
    it = stage(retry={"budget": BudgetSettings(ratio=0.0, min=0.1)})
    client = it.client()
    for expected in ({"won": 1}, {"won": 1, "unpaid": 1}):
        client.asks()
        first = it.upstream()
        first.hears()
        it.advance(0.6)
        upstream = it.asked()[0] if it.asked() else first
        if upstream is not first:
            upstream.hears()
        upstream.answers()
        assert client.gets().status == 200
        assert it.stats.hedges == expected
    it.over()


def test_a_breaker_that_lets_no_more_through_refuses_it() -> None:
    breaker = CircuitBreakerSettings(failure_threshold=1, reset_timeout=10.0, half_open_requests=1)
    it = stage(circuit_breaker=breaker, retry={"max_attempts": 1})
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(500)
    client.gets()
    it.advance(11)
    client.asks()
    upstream = it.upstream()
    upstream.hears()
    it.advance(1)
    assert it.asked() == []
    assert it.stats.hedges == {"refused": 1}
    upstream.answers()
    assert client.gets().status == 200
    it.over()


@pytest.mark.parametrize("winner", [0, 1])
def test_each_of_the_two_has_a_permit_of_its_own(winner: int) -> None:
    breaker = CircuitBreakerSettings(failure_threshold=1, reset_timeout=1.0, half_open_requests=2)
    it = stage(circuit_breaker=breaker, retry={"max_attempts": 1})
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(500)
    client.gets()
    it.advance(2)
    (mechanism,) = it.listener.breakers
    client.asks()
    pair = both(it)
    assert (mechanism.state, mechanism.allow()) == (HALF_OPEN, 0)
    pair[winner].answers(200)
    client.gets()
    assert mechanism.allow() == mechanism._generation  # the loser's is free again, the winner's is used up
    assert mechanism.allow() == 0
    it.over()


def test_no_room_for_another_connection() -> None:
    it = stage(bulkhead=BulkheadSettings(max_connections=1))
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    it.advance(0.6)
    assert it.asked() == []
    upstream.answers()
    assert client.gets().status == 200
    assert it.nothing_left()
    it.over()


def test_what_was_slower_is_no_failure_for_anybody() -> None:
    it = stage(why=True)
    told: list[tuple[int, float, int, str]] = []

    def watch(endpoint: Endpoint, took: float, status: int, failure: str) -> None:
        told.append((endpoint.port, round(took, 2), status, failure))

    it.listener.cluster.watchers = (watch,)
    client = it.asks()
    first, second = both(it)
    it.advance(0.1)
    second.answers()
    client.gets()
    assert [(took, status, failure) for _, took, status, failure in told] == [(0.15, 200, ""), (0.65, 0, "hedged")]
    assert all(endpoint.failures == 0 for endpoint in it.listener.cluster.endpoints)
    assert it.stories == []
    assert not first.connected
    it.over()


def test_its_span_is_one_of_two() -> None:
    it = stage(tracing=Tracing(sample=1.0))
    client = it.asks()
    first, second = both(it)
    first.answers()
    client.gets()
    assert len(it.spans) >= 3
    it.over()
    assert not second.connected


# -- after p95 -----------------------------------------------------------------------------------------------------


def test_p95_says_when_once_there_are_enough() -> None:
    it = stage(after=0.0)
    client = it.client()

    def ask(seconds: float) -> None:
        client.asks()
        upstream = it.upstream()
        upstream.hears()
        it.advance(seconds)
        upstream.answers()
        assert client.gets().status == 200

    view = it.stats.filters["retry"].view
    assert view is not None
    for number in range(LEAST):
        assert view()["hedge"]["after_ms"] is None
        ask(1.0 if number % 10 == 0 else 0.1)
    assert 1000.0 <= view()["hedge"]["after_ms"] <= 1100.0
    client.asks()
    first = it.upstream()
    first.hears()
    it.advance(0.9)
    assert it.asked() == []
    it.advance(0.3)
    second = it.upstream()
    second.hears()
    second.answers()
    client.gets()
    filter = it.filter(Retry)
    it.reload(retry=RetrySettings(max_attempts=5, hedge=HedgeSettings()))
    assert it.filter(Retry) is filter
    assert view()["hedge"]["after_ms"] >= 1000.0
    it.over()


# -- a law ---------------------------------------------------------------------------------------------------------

WORDS = (
    "answer", "503", "404", "break", "rubbish", "wait", "refuse", "accept", "silence", "half", "hint", "leave",
)  # fmt: skip
EVENTS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 3)), max_size=14)


@settings(deadline=None, max_examples=examples(300))
@given(EVENTS, st.integers(2, 3))
def test_whatever_comes_when_each_attempt_ends_once_and_there_is_one_answer(
    events: list[tuple[str, int]], endpoints: int
) -> None:
    breaker = CircuitBreakerSettings(failure_threshold=2, reset_timeout=1.0, half_open_requests=2)
    it = stage(endpoints, circuit_breaker=breaker, timeout=TimeoutSettings(request=6.0, connect=1.0))
    client = it.asks()
    gone = False
    for what, number in events:
        asked = [upstream for upstream in it.accepted if upstream.connected]
        if what == "wait":
            it.advance(0.3 * (number + 1))
        elif what in ("refuse", "accept", "silence"):
            verdict = {"silence": "silent"}.get(what, what)
            it.loop.dialled = lambda host, port, verdict=verdict: verdict  # type: ignore[misc]
        elif what == "leave":
            if not gone and number == 0:
                client.breaks()
                gone = True
        elif asked:
            upstream = asked[number % len(asked)]
            upstream.heard()
            if what == "break":
                upstream.breaks()
            else:
                upstream.says(
                    {
                        "answer": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                        "503": b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                        "404": b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
                        "rubbish": b"rubbish\r\n\r\n",
                        "half": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
                        "hint": b"HTTP/1.1 103 Hints\r\n\r\n",
                    }[what]
                )
        it.loop.settle()
        assert active(it) == sum(1 for x in _under_way(it) for a in (x.attempt, x.rival) if a is not None)
    it.advance(400)
    heard = client.heard() if not gone else b""
    assert heard.replace(b"HTTP/1.1 103", b"").count(b"HTTP/1.1 ") <= 1
    if not gone:
        assert heard.replace(b"HTTP/1.1 103", b"").count(b"HTTP/1.1 ") == 1
    assert sum(it.stats.requests.values()) == 1
    assert active(it) == 0
    assert sum(it.stats.hedges.values()) <= 1
    (mechanism,) = it.listener.breakers
    if mechanism.state == HALF_OPEN and mechanism._state == HALF_OPEN:
        assert mechanism._permits + mechanism._successes == 2
    it.over()


def _under_way(it: Stage) -> list[Any]:
    """The exchanges that have not ended."""
    return [x for peer in it.clients if (x := peer.transport.protocol.exchange) is not None]


def test_a_step_for_what_the_first_one_answers_does_not_forget_the_second() -> None:
    fallback = (StepSettings(on=frozenset({"5xx"}), answer=AnswerSettings(status=200, body="instead")),)
    it = stage(fallback=fallback)
    client = it.asks()
    first, second = both(it)
    first.answers(503, b"first")
    assert active(it) == 1
    second.answers(200, b"second")
    assert client.gets().body == b"second"
    assert (active(it), len(it.accepted)) == (0, 2)
    it.over()


def test_a_step_that_sends_it_elsewhere_leaves_both() -> None:
    it = stage(3, fallback=(StepSettings(on=frozenset({"500"}), upstream="simple"),))
    it.other("simple")
    client = it.asks()
    first, second = both(it)
    first.answers(500, b"first")
    it.loop.settle()
    assert (active(it), second.connected) == (0, False)
    other = it.upstream()
    other.hears()
    other.answers(200, b"other")
    assert client.gets().body == b"other"
    assert active(it) == 0
    it.over()


def test_a_permit_for_a_try_that_another_filter_refuses_is_not_lost() -> None:
    it = stage(circuit_breaker=CircuitBreakerSettings(failure_threshold=1, half_open_requests=3))
    filter = it.filter(CircuitBreaker)
    breaker = filter.mechanism
    breaker.failure(breaker.allow())
    it.advance(100.0)
    x = it.exchange()
    for _ in range(2):
        assert filter.on_try(x) is None
    assert (breaker.state, breaker.room()) == (HALF_OPEN, 2)
    filter.on_end(x)
    assert breaker.room() == 3


def test_the_other_one_is_waited_for_though_a_peer_has_given_up() -> None:
    it = stage()
    it.endpoints(2, sidecars=True)
    client = it.asks()
    first, second = both(it)
    first.answers(503, b"first", "x-sidecar-retried: 2")
    assert client.gets_nothing()
    second.answers(200, b"second")
    assert client.gets().body == b"second"
    it.over()
