"""What is remembered of an endpoint's failures, and counted by cause."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from sidecar.endpoints.endpoint import Endpoint
from sidecar.filters.retry import RetrySettings
from support.http import Stage


def stage(**more: Any) -> Stage:
    return Stage(**{"retry": None, "circuit_breaker": None, **more})


def endpoint(it: Stage, number: int = 0) -> Endpoint:
    return it.listener.cluster.endpoints[number]


def last(it: Stage, number: int = 0) -> tuple[str, str] | None:
    error = endpoint(it, number).last_error
    return None if error is None else (error.kind, error.text)


def test_a_connection_that_is_refused() -> None:
    it = stage()
    assert last(it) is None
    it.loop.dialled = lambda host, port: "refuse"
    answer = it.asks().gets()
    assert answer.error == "connect_failed"
    assert b"connection refused: nothing listens there" in answer.body
    assert last(it) == ("refused", "connection refused: nothing listens there")
    assert it.stats.connect_failures == {"refused": 1}
    (record,) = it.records
    assert (record.cause, record.peer_error) == ("refused", "")
    it.over()


def test_it_stays_when_the_next_one_goes_well() -> None:
    it = stage(retry=RetrySettings(max_attempts=2, initial_delay=0.0))
    answers = ["refuse"]
    it.loop.dialled = lambda host, port: answers.pop() if answers else "accept"
    client = it.asks()
    it.loop.run_until(it.loop.now + 0.1)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    assert last(it) == ("refused", "connection refused: nothing listens there")
    (record,) = it.records
    assert record.cause == ""  # it went well in the end
    it.over()


def test_no_answer_in_time() -> None:
    it = stage()
    client = it.asks()
    it.upstream().hears()
    it.loop.advance(31)
    it.loop.run_until(it.loop.now)
    assert client.gets().error == "timeout"
    assert last(it) == ("no_answer", "it did not answer in time")
    assert it.records[0].cause == "no_answer"
    assert it.stats.connect_failures == {}  # it was connected
    it.over()


def test_a_connection_that_breaks_before_the_answer() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.breaks()
    assert client.gets().error == "upstream_reset"
    assert last(it) == ("reset", "it closed the connection")
    it.over()


def test_an_answer_that_is_not_http() -> None:
    it = stage()
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.says(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n\r\n")
    assert client.gets().error == "bad_upstream"
    found = last(it)
    assert found is not None
    assert found[0] == "malformed"
    it.over()


@pytest.mark.parametrize(
    ("status", "fields", "sidecars", "expected", "peer"),
    [
        (404, (), False, None, ""),
        (500, (), False, ("status", "it answered 500"), ""),
        (503, ("x-sidecar-error: connect_failed",), True, ("peer", "its sidecar answered 503 connect_failed"),
         "connect_failed"),
        (503, ("x-sidecar-error: made-up",), True, ("peer", "its sidecar answered 503 other"), "other"),
        (429, ("x-sidecar-error: rate_limited",), True, None, "rate_limited"),
        # Only where a sidecar is known to stand.
        (503, ("x-sidecar-error: connect_failed",), False, ("status", "it answered 503"), ""),
    ],
)  # fmt: skip
def test_answers_that_are_errors(
    status: int, fields: tuple[str, ...], sidecars: bool, expected: tuple[str, str] | None, peer: str
) -> None:
    it = stage()
    it.endpoints(1, sidecars=sidecars)
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(status, b"no", *fields)
    assert client.gets().status == status
    assert last(it) == expected
    assert it.records[0].peer_error == peer
    assert it.stats.peer_errors == ({peer: 1} if peer else {})
    it.over()


def test_a_name_that_does_not_exist_is_counted_where_it_leaves_no_endpoint() -> None:
    it = stage(endpoints=0)
    it.listener.cluster.problem = "web.test does not resolve: there is no such name"
    it.listener.cluster.cause = "no_such_name"
    answer = it.asks().gets()
    assert answer.error == "no_endpoints"
    assert b"there is no such name" in answer.body
    assert it.stats.connect_failures == {"no_such_name": 1}
    assert it.records[0].cause == "no_such_name"
    it.over()


def test_what_this_host_lacked_is_shown_and_no_failure_of_the_endpoint() -> None:
    it = stage()
    cluster, only = it.listener.cluster, endpoint(it)
    cluster.attempt_failed(only, OSError(errno.EMFILE, "Too many open files"))
    assert (only.failures, only.ejected_until) == (0, 0.0)
    assert last(it) == ("no_descriptors", "this host is out of descriptors")
    assert it.stats.connect_failures == {"no_descriptors": 1}
    cluster.attempt_failed(only, None)
    assert only.failures == 1
    assert last(it) == ("timeout", "it was silent")
