"""Retries: the rules by plain calls, and what upstreams and clients see of them."""

from __future__ import annotations

import random
from email.utils import formatdate
from typing import Any

import pytest

from sidecar.config.traffic import Match
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE, RESET, TIMEOUT
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import BudgetSettings, Retry
from sidecar.filters.retry import RetrySettings as Config
from sidecar.filters.timeout import TimeoutSettings
from sidecar.why.causes import cause_of
from support.http import Stage, answer, request
from support.ports import route_of, site

#: Unix time, as far as the tests go.
WALL = 1_800_000_000.0


class Bench:
    """A retry filter, and exchanges whose first try is under way."""

    def __init__(self, endpoints: int = 1, **settings: Any) -> None:
        self.stage = Stage(endpoints=endpoints)
        config = Config(**{"jitter": False, **settings})
        self.filter = Retry(config, site(self.stage.loop), lambda: WALL)

    def exchange(self, method: str = "GET") -> Any:
        x = self.stage.exchange(request(f"{method} / HTTP/1.1"))
        self.stage.tries(x)
        return x


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_an_idempotent_method_is_repeated_after_a_reset(method: str) -> None:
    bench = Bench()
    again = bench.filter.on_failure(bench.exchange(method), RESET)
    assert again is not None
    assert (again.delay, again.reason) == (1.0, "reset")


@pytest.mark.parametrize("kind", [RESET, MALFORMED])
def test_another_method_is_not_repeated_once_it_was_sent(kind: str) -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange("POST"), kind) is None
    assert Bench(methods=frozenset({"POST"})).filter.on_failure(bench.exchange("POST"), kind) is not None


def test_without_a_connection_any_method_is_repeated() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange("POST"), CONNECT) is not None
    assert Bench(on=frozenset({"reset"})).filter.on_failure(bench.exchange("POST"), CONNECT) is None


def test_a_failed_connect_goes_elsewhere_at_once_and_waits_when_there_is_nowhere() -> None:
    bench = Bench(endpoints=2)
    x = bench.exchange("POST")
    again = bench.filter.on_failure(x, CONNECT)
    assert again is not None
    assert again.delay == 0.0
    bench.stage.tries(x, 1)
    again = bench.filter.on_failure(x, CONNECT)
    assert again is not None
    assert again.delay == 2.0


def test_a_timeout_is_only_repeated_when_asked_for() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange(), TIMEOUT) is None
    assert Bench(on=frozenset({"timeout"})).filter.on_failure(bench.exchange(), TIMEOUT) is not None


def test_a_lost_race_is_not_its_business() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange(), RACE) is None


@pytest.mark.parametrize(
    ("on", "status", "repeated"),
    [
        ({"503"}, 503, True),
        ({"503"}, 500, False),
        ({"5xx"}, 500, True),
        ({"5xx"}, 404, False),
        ({"429"}, 429, True),
        ({"connect"}, 503, False),
    ],
)
def test_configured_statuses(on: set[str], status: int, repeated: bool) -> None:
    bench = Bench(on=frozenset(on))
    assert (bench.filter.on_answer(bench.exchange(), answer(status)) is not None) is repeated
    assert bench.filter.on_answer(bench.exchange("POST"), answer(status)) is None


def test_max_attempts_counts_the_first() -> None:
    bench = Bench(max_attempts=2)
    x = bench.exchange()
    assert bench.filter.on_failure(x, RESET) is not None
    bench.stage.tries(x)
    assert bench.filter.on_failure(x, RESET) is None


def test_a_body_that_is_gone_cannot_be_repeated() -> None:
    bench = Bench()
    x = bench.exchange()
    x.replayable = False
    assert bench.filter.on_failure(x, CONNECT) is None
    assert bench.filter.on_answer(x, answer(503)) is None


def test_never_past_the_deadline() -> None:
    bench = Bench()
    x = bench.exchange()
    bench.stage.loop.advance(28.9)
    assert bench.filter.on_failure(x, RESET) is not None
    bench.stage.loop.advance(0.2)
    assert bench.filter.on_failure(x, RESET) is None


def test_exponential_with_full_jitter() -> None:
    bench = Bench(jitter=True, max_attempts=10, max_delay=4.0)
    seen: list[float] = []
    for attempt, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0)):
        for _ in range(50):
            x = bench.exchange()
            x.attempts = attempt
            again = bench.filter.on_failure(x, RESET)
            assert again is not None
            assert 0.0 <= again.delay <= longest
            seen.append(again.delay / longest)
    assert min(seen) < 0.1
    assert max(seen) > 0.9


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        ("7", 7.0),
        (formatdate(WALL + 10, usegmt=True), 10.0),
        (formatdate(WALL - 10, usegmt=True), 0.0),
        ("soon", 1.0),  # the backoff's own
        ("-1", 1.0),
    ],
)
def test_retry_after_is_honoured(value: str, delay: float) -> None:
    bench = Bench()
    again = bench.filter.on_answer(bench.exchange(), answer(503, f"retry-after: {value}"))
    assert again is not None
    assert again.delay == delay


@pytest.mark.parametrize("value", ["31", "99999999999999999999", formatdate(WALL + 3600, usegmt=True)])
def test_retry_after_beyond_the_deadline_ends_it(value: str) -> None:
    bench = Bench()
    assert bench.filter.on_answer(bench.exchange(), answer(503, f"retry-after: {value}")) is None


@pytest.mark.parametrize("code", ["draining", "connect_failed", "connect_timeout", "no_endpoints"])
def test_what_a_peer_could_not_deliver_goes_elsewhere_at_once(code: str) -> None:
    bench = Bench(endpoints=2)
    again = bench.filter.on_answer(bench.exchange("POST"), answer(503, f"x-sidecar-error: {code}"))
    assert again is not None
    assert again.delay == 0.0


@pytest.mark.parametrize("code", ["overloaded", "rate_limited", "timeout", "upstream_reset", "made_up"])
def test_what_a_peer_may_have_delivered_does_not(code: str) -> None:
    bench = Bench(endpoints=2)
    assert bench.filter.on_answer(bench.exchange("POST"), answer(503, f"x-sidecar-error: {code}")) is None


def test_a_peers_code_of_an_earlier_try_does_not_stick() -> None:
    bench = Bench(endpoints=2)
    x = bench.exchange("POST")
    assert bench.filter.on_answer(x, answer(503, "x-sidecar-error: draining")) is not None
    bench.stage.tries(x, 1)
    assert bench.filter.on_answer(x, answer(404)) is None
    assert bench.filter.on_answer(x, answer(503)) is None


# -- as upstreams and clients see it ---------------------------------------------------------------------


def stage(endpoints: int = 1, why: bool = False, **settings: Any) -> Stage:
    retry, breaker = Config(**{"jitter": False, **settings}), CircuitBreakerSettings(failure_threshold=100)
    return Stage(endpoints=endpoints, why=why, retry=retry, circuit_breaker=breaker)


def test_an_upstream_sees_each_try_and_the_client_one_answer() -> None:
    it = stage()
    client = it.asks()
    ids = []
    for delay, status, body in ((1.0, 503, b"no"), (2.0, 503, b"no"), (0.0, 200, b"yes")):
        upstream = it.upstream()
        ids.append(upstream.hears().fields["x-request-id"])
        upstream.answers(status, body)
        if delay:
            it.advance(delay - 0.1)
            assert it.asked() == []
            it.advance(0.2)
    assert (client.gets().body, len(set(ids))) == (b"yes", 1)
    assert it.stats.retries == {"503": 2}
    assert it.records[-1].attempts == 3
    it.over()


def test_the_last_answer_is_passed_on_as_it_is() -> None:
    it = stage(max_attempts=2, initial_delay=0.0)
    client = it.asks()
    for _ in range(2):
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(503, b"sorry", "x-a: b")
    answered = client.gets()
    assert (answered.status, answered.body, answered.fields["x-a"]) == (503, b"sorry", "b")
    assert answered.error == ""
    assert it.asked() == []
    it.over()


def test_a_post_is_not_sent_twice() -> None:
    it = stage()
    client = it.asks("POST /", body=b"x")
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503)
    assert client.gets().status == 503
    client.asks("POST /", body=b"x")
    upstream = it.upstream()
    upstream.hears()
    upstream.breaks()
    answered = client.gets()
    assert (answered.status, answered.error) == (502, "upstream_reset")
    it.advance(60)
    assert it.asked() == []
    it.over()


@pytest.mark.parametrize(("size", "tries"), [(1, 2), (65536, 2), (65537, 1)])
def test_a_body_is_kept_up_to_64_kib(size: int, tries: int) -> None:
    body = random.Random(size).randbytes(size)
    it = stage(initial_delay=0.0)
    client = it.asks("PUT /", body=body)
    for status in (503, 200)[:tries]:
        upstream = it.upstream()
        assert upstream.hears().body == body
        upstream.answers(status)
    assert client.gets().status == status
    assert it.asked() == []
    it.over()


def test_a_post_that_could_not_connect_goes_to_another_endpoint_at_once() -> None:
    it = stage(endpoints=2)
    it.loop.dialled = lambda host, port: "refuse" if port == 1 else "accept"
    client = it.client()
    for _ in range(4):
        client.asks("POST /", body=b"abc")
        upstream = it.upstream()
        assert upstream.hears().body == b"abc"
        upstream.answers()
        assert client.gets().status == 200
    assert it.stats.retries["connect"] == 1  # then it is out of the rotation
    assert it.nothing_left()
    it.over()


def test_a_post_to_a_draining_peer_goes_to_another_endpoint_at_once() -> None:
    it = stage()
    it.endpoints(2, sidecars=True)
    client = it.asks("POST /", body=b"abc")
    old = it.upstream()
    old.hears()
    old.answers(503, b"{}", "x-sidecar-error: draining")
    for _ in range(4):
        new = it.upstream()
        assert new is not old
        assert new.hears().body == b"abc"
        new.answers()
        assert client.gets().status == 200
        client.asks("POST /", body=b"abc")
    assert it.breaker_states == []
    it.over()


@pytest.mark.parametrize("code", ["draining", "connect_failed", "no_endpoints"])
def test_an_app_that_says_so_is_not_believed(code: str) -> None:
    it = stage(endpoints=2)
    client = it.asks("POST /", body=b"abc")
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503, b"{}", f"x-sidecar-error: {code}")
    answered = client.gets()
    assert answered.status == 503
    assert "x-sidecar-error" not in answered.fields
    assert it.asked() == []
    assert not any(endpoint.ejected_until for endpoint in it.listener.cluster.endpoints)
    it.over()


def test_a_closed_keep_alive_connection_costs_a_get_nothing() -> None:
    it = stage()
    client = it.asks()
    kept = it.upstream()
    kept.hears()
    kept.answers()
    assert client.gets().status == 200
    client.asks()
    kept.hears()
    kept.leaves()  # the second request met a connection being closed
    fresh = it.upstream()
    assert fresh is not kept
    fresh.hears()
    fresh.answers()
    assert client.gets().status == 200
    assert it.stats.retries == {"race": 1}
    it.over()


def test_retry_after_is_waited_for() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503, b"", "retry-after: 5")
    it.advance(4.9)
    assert it.asked() == []
    it.advance(0.2)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    it.over()


def test_the_deadline_ends_the_tries() -> None:
    it = Stage(retry=Config(max_attempts=10, jitter=False), timeout=TimeoutSettings(request=2.5))
    client = it.asks()
    for _ in range(2):
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(503)
        it.advance(1.05)
    assert client.gets().status == 503  # the next delay, 2 s, would end after the deadline
    assert it.asked() == []
    it.over()


def test_a_client_that_leaves_during_the_backoff_is_not_tried_for_again() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503)
    assert it.stats.retries["503"] == 1
    client.breaks()
    assert it.stats.active == 0
    it.advance(60)
    assert it.asked() == []
    assert it.nothing_left()
    it.over()


def test_not_after_the_first_byte_of_an_answer() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    upstream.breaks()
    assert client.aborted  # the client cannot take it for the whole
    it.advance(60)
    assert it.asked() == []
    assert it.nothing_left()
    it.over()


# -- the budget ----------------------------------------------------------------------------------------------------


def spent(it: Stage) -> int:
    return it.stats.suppressed["budget"]


def no_budget(least: float = 0.0) -> BudgetSettings:
    return BudgetSettings(ratio=0.0, min=least)


def test_what_the_budget_does_not_pay_for_is_not_repeated() -> None:
    it = stage(initial_delay=0.0, budget=no_budget(0.1), why=True)
    client = it.client()
    for status in (200, 503):  # one retry in ten seconds
        client.asks()
        for answered in (503, status)[: 2 if status == 200 else 1]:
            upstream = it.upstream()
            upstream.hears()
            upstream.answers(answered)
        assert client.gets().status == status
        assert it.asked() == []
    assert it.stats.retries == {"503": 1}
    assert spent(it) == 1
    assert it.stories[-1]["events"][-1]["why"] == "budget"
    assert "the retry budget of the upstream was used up (upstreams.up.retry.budget)" in cause_of(it.stories[-1])[0]
    it.advance(11)
    assert it.stats.retry_budget is not None
    assert it.stats.retry_budget() == 1.0
    it.over()


def test_each_request_pays_a_part_of_a_retry() -> None:
    it = stage(initial_delay=0.0, budget=BudgetSettings(ratio=0.2, min=0.0))
    client = it.client()
    for _ in range(5):
        client.asks()
        upstream = it.upstream()
        upstream.hears()
        upstream.answers()
        client.gets()
    client.asks()
    for _ in range(2):
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(503)
    assert client.gets().status == 503
    assert (it.stats.retries["503"], spent(it)) == (1, 1)
    assert it.stats.filters["retry"].view is not None
    assert it.stats.filters["retry"].view() == {"budget": {"left": 0.2, "ratio": 0.2, "min_per_second": 0.0}}
    it.over()


def test_what_never_reached_an_app_costs_nothing() -> None:
    bench = Bench(endpoints=2, budget=no_budget())
    bench.filter._budget.configure(0.0, 0.0)
    assert bench.filter.on_failure(bench.exchange("POST"), CONNECT) is not None
    assert bench.filter.on_answer(bench.exchange("POST"), answer(503, "x-sidecar-error: draining")) is not None
    assert bench.filter.on_failure(bench.exchange(), RESET) is None


def test_asking_the_same_peer_again_is_paid_for() -> None:
    bench = Bench(endpoints=1)
    bench.filter._budget.configure(0.0, 0.1)
    told = [bench.filter.on_answer(bench.exchange(), answer(503, "x-sidecar-error: draining")) for _ in range(2)]
    assert [it is not None for it in told] == [True, False]


def test_routes_share_the_upstreams_budget_and_a_reload_keeps_it() -> None:
    routes = (route_of(match=Match(path="/a*"), retry=Config(jitter=False, initial_delay=0.0, max_attempts=2)),)
    breaker = CircuitBreakerSettings(failure_threshold=100)
    settings = Config(jitter=False, initial_delay=0.0, budget=no_budget(0.2))
    it = Stage(retry=settings, circuit_breaker=breaker, routes=routes)

    def tries(path: str) -> int:
        made = 0
        client = it.asks(f"GET {path}")
        while it.asked():
            upstream = it.upstream()
            upstream.hears()
            upstream.answers(503)
            made += 1
        assert client.gets().status == 503
        return made

    assert tries("/a") == 2
    it.reload(retry=Config(jitter=False, initial_delay=0.0, budget=no_budget(0.2), max_attempts=5))
    assert tries("/") == 2
    assert tries("/a") == 1
    it.reload(retry=None)  # then it is the default one, for those who have a retry
    assert tries("/a") == 2
    assert tries("/") == 1
    it.reload(routes=())
    assert it.stats.retry_budget is None
    it.over()


def test_without_a_budget_all_are_repeated() -> None:
    it = stage(initial_delay=0.0, budget=None)
    assert it.stats.retry_budget is None
    client = it.client()
    for _ in range(20):
        client.asks()
        for _ in range(3):
            upstream = it.upstream()
            upstream.hears()
            upstream.answers(503)
        client.gets()
    assert it.stats.retries == {"503": 40}
    it.over()


# -- the time of one try -------------------------------------------------------------------------------------------


def test_a_try_that_is_late_is_followed_by_one_elsewhere_at_once() -> None:
    it = stage(endpoints=2, per_try_timeout=2.0, why=True)
    client = it.asks()
    slow = it.upstream()
    slow.hears()
    it.advance(1.9)
    assert it.asked() == []
    it.advance(0.2)
    other = it.upstream()
    other.hears()
    assert other is not slow
    assert not slow.connected
    other.answers()
    assert client.gets().status == 200
    assert it.stats.retries == {"timeout": 1}
    over = next(event for event in it.stories[-1]["events"] if event["what"] == "time_over")
    assert (over["which"], over["after_ms"]) == ("retry.per_try_timeout", 2000.0)
    it.over()


def test_a_late_try_of_a_post_is_its_last() -> None:
    it = stage(endpoints=2, per_try_timeout=2.0)
    client = it.asks("POST /", body=b"x")
    it.upstream().hears()
    it.advance(2.1)
    answered = client.gets()
    assert (answered.status, answered.error) == (504, "timeout")
    it.over()


def test_the_time_of_a_try_is_not_beyond_that_of_all() -> None:
    it = stage(endpoints=3, per_try_timeout=20.0)
    client = it.asks()
    it.upstream().hears()
    it.advance(20.1)
    it.upstream().hears()
    it.advance(9.8)
    assert client.gets_nothing()
    it.advance(0.2)
    assert client.gets().error == "timeout"
    it.over()


def test_the_time_to_connect_is_a_part_of_it() -> None:
    it = stage(endpoints=2, per_try_timeout=0.5)
    verdicts = iter(("silent", "accept"))
    it.loop.dialled = lambda host, port: next(verdicts)
    client = it.asks("POST /", body=b"x")
    it.advance(0.6)
    upstream = it.upstream()
    assert upstream.hears().body == b"x"
    upstream.answers()
    assert client.gets().status == 200
    it.over()
