"""The deadline travels: with each try, from each caller."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.why.causes import cause_of
from support.http import Stage

FIELD = "x-sidecar-deadline"


def left(it: Stage) -> int:
    """What the upstream is told that it has; the request is not answered."""
    return int(it.upstream().hears().fields[FIELD])


def test_each_try_says_how_much_time_it_has() -> None:
    it = Stage(timeout=TimeoutSettings(request=10.0), retry=RetrySettings(jitter=False, initial_delay=2.0))
    client = it.asks()
    upstream = it.upstream()
    assert upstream.hears().fields[FIELD] == "10000"
    it.advance(1.0)
    upstream.answers(503)
    it.advance(2.05)
    upstream = it.upstream()
    heard = upstream.hears()
    assert 6900 <= int(heard.fields[FIELD]) <= 7000
    assert heard.head.count(FIELD.encode()) == 1
    upstream.answers()
    assert client.gets().status == 200
    it.over()


@pytest.mark.parametrize(
    "policies",
    [
        {"retry": RetrySettings(per_try_timeout=2.0)},
        {"circuit_breaker": CircuitBreakerSettings(timeout_duration=2.0)},
        {"timeout": TimeoutSettings(request=9.0, total=2.0)},
    ],
)
def test_it_is_the_time_of_the_try(policies: dict[str, Any]) -> None:
    it = Stage(**policies)
    it.asks()
    assert left(it) == 2000
    it.over()


@pytest.mark.parametrize("inbound", [True, False])
def test_what_comes_with_one_gets_no_more(inbound: bool) -> None:
    it = Stage(inbound=inbound, why=True)
    client = it.asks("GET /", f"{FIELD}: 1500", "x-kept: 1")
    heard = it.upstream().hears()
    assert (heard.fields[FIELD], heard.fields["x-kept"]) == ("1500", "1")
    it.advance(1.4)
    assert client.gets_nothing()
    it.advance(0.2)
    answered = client.gets()
    assert (answered.status, answered.error) == (504, "timeout")
    assert "no answer within the 1.5 s that its caller had left for it" in cause_of(it.stories[-1])[0]
    it.over()


def test_it_makes_nothing_longer() -> None:
    it = Stage(timeout=TimeoutSettings(request=2.0))
    client = it.asks("GET /", f"{FIELD}: 5000")
    assert left(it) == 2000
    it.advance(2.1)
    assert client.gets().error == "timeout"
    it.over()


@pytest.mark.parametrize("value", ["0", "00000000", " 0\t"])
def test_what_has_no_time_left_is_answered_without_a_call(value: str) -> None:
    it = Stage(inbound=True, bulkhead=BulkheadSettings(max_requests=1, max_connections=1), why=True)
    it.asks()
    it.upstream().hears()
    client = it.asks("GET /", f"{FIELD}:{value}", "x-request-id: late")
    answered = client.gets()  # and it has not waited for its turn
    assert (answered.status, answered.error, answered.fields["x-request-id"]) == (504, "timeout", "late")
    assert it.stats.pending == 0
    assert it.asked() == []
    assert cause_of(it.stories[-1])[0] == "its caller had no time left for it, so nothing was asked"
    it.over()


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "1e3", "999999999", "9" * 5000, "1, 2", "\xb2"])
def test_what_cannot_be_read_says_nothing(value: str) -> None:
    it = Stage()
    client = it.asks("GET /", f"{FIELD}: {value}")
    heard = it.upstream().hears()
    assert heard.fields[FIELD] == "30000"
    assert heard.head.lower().count(FIELD.encode()) == 1
    it.over()
    assert client.gets_nothing()


def test_two_of_them_say_nothing_and_go_no_further() -> None:
    it = Stage()
    it.asks("GET /", f"{FIELD}: 5", "X-Sidecar-Deadline: 6", "x_sidecar_deadline: 7")
    heard = it.upstream().hears()
    assert heard.fields[FIELD] == "30000"
    assert heard.head.lower().count(b"sidecar") == 1
    it.over()


def test_an_upload_has_that_time_from_its_latest_byte_on() -> None:
    it = Stage(inbound=True)
    client = it.client()
    client.says(b"PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\nx-sidecar-deadline: 1000\r\n\r\na")
    upstream = it.upstream()
    for byte in b"bc":
        it.advance(0.9)
        client.says(bytes([byte]))
    it.advance(0.9)
    assert client.gets_nothing()
    client.says(b"d")
    heard = upstream.hears()
    assert (heard.body, heard.fields[FIELD]) == (b"abcd", "1000")
    it.advance(1.1)
    assert client.gets().error == "timeout"
    it.over()


def test_time_that_was_over_while_it_waited_asks_nobody() -> None:
    it = Stage()
    x = it.exchange()
    it.listener.stats.active += 1
    x.client.exchange = x
    x.deadline = it.loop()
    x.begin_try()
    (client,) = it.clients
    assert client.gets().error == "timeout"
    assert it.asked() == []
    assert it.nothing_left()
    it.over()


def test_an_upgrade_says_it_too() -> None:
    it = Stage()
    it.asks("GET /", "connection: upgrade", "upgrade: websocket")
    heard = it.upstream().hears()
    assert (heard.fields["upgrade"], heard.fields[FIELD]) == ("websocket", "30000")
    it.over()


@pytest.mark.parametrize(("deadline", "blamed"), [(1, False), (900, False), (1100, True)])
def test_very_short_deadlines_open_no_breaker(deadline: int, blamed: bool) -> None:
    it = Stage(retry=None, circuit_breaker=CircuitBreakerSettings(failure_threshold=3))
    for _ in range(3):
        client = it.asks("GET /", f"{FIELD}: {deadline}")
        it.upstream().hears()
        it.advance(1.5)
        assert client.gets().error == "timeout"
    assert bool(it.listener.cluster.endpoints[0].failures) is blamed
    client = it.asks()
    if blamed:
        assert client.gets().error == "circuit_open"
    else:
        it.upstream().hears()
    it.over()


def test_short_times_of_a_ports_own_are_blamed() -> None:
    times = TimeoutSettings(request=0.5, connect=0.5)
    it = Stage(retry=None, timeout=times, circuit_breaker=CircuitBreakerSettings(failure_threshold=1))
    client = it.asks("GET /", f"{FIELD}: 400")
    it.upstream().hears()
    it.advance(1.0)
    assert client.gets().error == "timeout"
    assert it.asks().gets().error == "circuit_open"
    it.over()
