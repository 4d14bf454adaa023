"""What is counted, and what is logged, for each way an exchange can end."""

from __future__ import annotations

from typing import Any

from sidecar.filters.retry import RetrySettings
from support.http import Client, Stage


def stage(**policies: Any) -> Stage:
    return Stage(retry=RetrySettings(max_attempts=2, initial_delay=0.0), **policies)


def answered(it: Stage, line: str, status: int = 200, body: bytes = b"ok", sent: bytes = b"") -> Client:
    """A client whose request has been answered."""
    client = it.asks(line, body=sent)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(status, body)
    return client


def test_an_answer() -> None:
    it = stage()
    answered(it, "PUT /path?secret=1", body=b"12345", sent=b"123")
    assert it.stats.requests == {("PUT", 200): 1}
    assert it.stats.duration.count() == 1
    assert (it.stats.bytes_in, it.stats.bytes_out) == (3, 5)
    assert not it.stats.rejected
    (record,) = it.records
    assert (record.direction, record.upstream, record.method) == ("outbound", "up", "PUT")
    assert record.target == "/path"  # never the query: it may hold secrets
    assert (record.status, record.error, record.attempts) == (200, None, 1)
    assert (record.bytes_in, record.bytes_out) == (3, 5)
    assert (record.client, record.endpoint) == ("10.1.1.1", "10.0.0.1:1")
    it.over()


def test_methods_that_peers_make_up_share_a_label() -> None:
    it = stage()
    for n in range(20):
        answered(it, f"M{n} /")
    assert it.stats.requests == {("other", 200): 20}
    it.over()


def test_statuses_that_apps_make_up_share_labels() -> None:
    it = stage(circuit_breaker=None)
    for status in (200, 299, 298, 499, 503, 599, 600, 999):
        assert answered(it, "POST /", status).gets().status == status
    assert it.stats.requests == {
        ("POST", key): n for key, n in ((200, 1), (2, 2), (499, 1), (503, 1), (5, 1), (6, 1), (9, 1))
    }
    it.over()


def test_a_reply_of_our_own() -> None:
    it = stage()
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    assert it.stats.requests == {("GET", 502): 1}
    assert it.stats.rejected == {"connect_failed": 1}
    assert it.stats.retries == {"connect": 1}
    (record,) = it.records
    assert (record.error, record.attempts, record.endpoint) == ("connect_failed", 2, "10.0.0.1:1")
    it.over()


def test_a_client_that_leaves() -> None:
    it = stage()
    it.asks().breaks()
    assert it.stats.requests == {("GET", 499): 1}
    assert not it.stats.rejected
    assert len(it.records) == 1
    it.over()
