"""The times of an exchange, each where it begins and ends; time passes when the test says so."""

from __future__ import annotations

from sidecar.config.traffic import Match
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import Timeout, TimeoutSettings
from support.http import Stage
from support.ports import route_of, site

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


def test_the_deadline_counts_from_the_beginning() -> None:
    stage = Stage()
    x = stage.exchange()
    stage.loop.advance(3)
    Timeout(TimeoutSettings(request=10.0), site(stage.loop)).on_request(x)
    assert x.deadline == x.started + 10.0


def test_no_answer_in_time() -> None:
    stage = Stage(timeout=TimeoutSettings(request=5.0))
    client = stage.asks()
    stage.advance(4.9)
    assert client.gets_nothing()
    stage.advance(0.2)
    answered = client.gets()
    assert (answered.status, answered.error) == (504, "timeout")
    assert stage.stats.duration.total >= 5.0
    assert stage.nothing_left()
    stage.over()


def test_waiting_in_the_bulkheads_queue_counts() -> None:
    stage = Stage(timeout=TimeoutSettings(request=5.0), bulkhead=BulkheadSettings(max_requests=1, pending_timeout=60.0))
    first = stage.asks("GET /1")
    stage.upstream().hears()
    stage.advance(3)
    second = stage.asks("GET /2")
    assert stage.stats.pending == 1
    stage.advance(2.1)
    assert first.gets().error == "timeout"
    assert stage.upstream().hears().target == "/2"
    stage.advance(2.8)
    assert second.gets_nothing()
    stage.advance(0.2)
    assert second.gets().error == "timeout"
    assert stage.nothing_left()
    stage.over()


def test_the_smaller_of_request_and_timeout_duration_counts_for_a_try() -> None:
    stage = Stage(
        timeout=TimeoutSettings(request=60.0),
        circuit_breaker=CircuitBreakerSettings(timeout_duration=2.0),
        retry=RetrySettings(on=frozenset({"timeout"}), jitter=False),
    )
    client = stage.asks()
    stage.upstream().hears()
    stage.advance(2.1)
    assert stage.stats.retries["timeout"] == 1
    stage.advance(1.1)
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    stage.over()


def test_a_long_answer_lives_while_it_says_something() -> None:
    stage = Stage(timeout=TimeoutSettings(request=1.0, idle=10.0))
    client = stage.asks()
    upstream = stage.upstream()
    upstream.hears()
    upstream.says(_HEAD + b"1")
    for n in range(2, 6):
        assert stage.stats.bytes_out == n - 1
        stage.advance(9)
        upstream.says(b"%d" % n)
    assert client.gets().body == b"12345"
    stage.over()


def test_silence_in_the_middle_of_an_answer_ends_it() -> None:
    stage = Stage(timeout=TimeoutSettings(idle=10.0))
    client = stage.asks()
    stage.upstream().says(_HEAD + b"1")
    assert stage.stats.bytes_out == 1
    stage.advance(9.9)
    assert client.connected
    stage.advance(0.2)
    assert client.aborted
    assert stage.nothing_left()
    stage.over()


def test_total_ends_even_an_answer_that_goes_on() -> None:
    stage = Stage(timeout=TimeoutSettings(total=15.0))
    client = stage.asks()
    upstream = stage.upstream()
    upstream.says(_HEAD + b"1")
    stage.advance(9)
    upstream.says(b"2")
    assert stage.stats.bytes_out == 2
    stage.advance(6.1)
    assert client.aborted
    assert stage.nothing_left()
    stage.over()


def test_a_route_has_times_of_its_own() -> None:
    route = route_of(match=Match(path="/slow/*"), timeout=TimeoutSettings(request=60.0), circuit_breaker=None)
    stage = Stage(timeout=TimeoutSettings(request=5.0), routes=(route,))
    quick, slow = stage.asks(), stage.asks("GET /slow/x")
    stage.advance(5.1)
    assert quick.gets().error == "timeout"
    stage.advance(54)
    assert slow.gets_nothing()
    stage.advance(1.1)
    assert slow.gets().error == "timeout"
    stage.over()
