"""What is counted, and what is logged, for each way an exchange can end."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.agent import Tracing
from sidecar.core.stats import BUCKETS, STATUSES
from sidecar.core.trace import SAMPLED, Trace
from sidecar.filters.metrics import Metrics
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.telemetry.exposition import Page
from sidecar.telemetry.listener_metrics import families
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


def test_a_sampled_trace_is_the_example_of_its_bucket() -> None:
    it = stage(tracing=Tracing(sample=0.0))
    answered(it, "GET /")
    assert it.stats.duration.exemplars == {}
    traces = [f"{n:032x}" for n in (1, 2, 3)]
    for trace, flags in zip(traces, ("01", "01", "00"), strict=True):
        client = it.asks("GET /", f"traceparent: 00-{trace}-00f067aa0ba902b7-{flags}")
        upstream = it.upstream()
        upstream.hears()
        it.loop.advance(0.3)
        upstream.answers(200, b"ok")
        client.gets()
    ((trace_id, value, _),) = it.stats.duration.exemplars.values()
    assert trace_id == traces[1]  # the newest that is sampled
    assert value == pytest.approx(0.3)
    assert it.stats.duration.count() == 4
    it.over()


def test_a_hundred_thousand_different_requests_take_no_more_room_than_some() -> None:
    it = stage()
    x, counted = it.exchange(), Metrics(it.stats, it.loop)
    for n in range(100_000):
        x.method, x.status, x.request_id = f"M{n}", n % 1000, f"{n}"
        x.trace = Trace(f"{n:032x}", f"{n:016x}", "", SAMPLED)
        x.error = "" if n % 3 else "timeout"
        counted.on_end(x)
    assert len(it.stats.requests) <= len(STATUSES) + 10
    assert len(it.stats.duration.exemplars) <= len(BUCKETS) + 1
    assert set(it.stats.rejected) == {"timeout"}


def test_nothing_that_peers_make_up_adds_a_series() -> None:
    it = stage(circuit_breaker=None, tracing=Tracing(sample=1.0))
    sizes = []
    for n in range(1500):
        secrets = ("authorization: Bearer hunter2", "cookie: a=hunter2", "x-request-id: hunter2")
        client = it.asks(f"M{n} /{n}?key=hunter2", *secrets, f"x-{n}: hunter2")
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(200 + n % 800, b"")
        client.gets()
        if n in (999, 1499):
            page = Page(openmetrics=True)
            for family in families([it.stats]):
                page.add(family)
            text = page.finish()
            sizes.append(text.count(b"\n"))
            assert b"hunter2" not in text
    assert sizes[0] == sizes[1] < 400
    it.over()


def test_refusals_are_no_latencies() -> None:
    """What never had a try says nothing about how long answers take."""
    it = stage(rate_limit=RateLimitSettings(rate=1.0, burst=1))
    answered(it, "GET /")
    assert it.asks().gets().error == "rate_limited"
    assert it.stats.requests == {("GET", 200): 1, ("GET", 429): 1}
    assert (it.stats.duration.count(), it.stats.first_byte.count()) == (1, 1)
    it.over()


def test_a_failure_after_a_try_is_one_without_a_first_byte() -> None:
    it = stage()
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    assert (it.stats.duration.count(), it.stats.first_byte.count()) == (1, 0)
    it.over()


def test_the_first_byte_of_a_stream_and_of_a_tunnel() -> None:
    it = stage()
    for head in (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ):
        client = it.asks("GET /", "connection: upgrade", "upgrade: websocket")
        upstream = it.upstream()
        upstream.hears()
        it.loop.advance(0.03)
        upstream.says(head)
        it.loop.advance(7.0)
        client.breaks()
    assert (it.stats.duration.count(), it.stats.first_byte.count()) == (2, 2)
    assert 0.025 < it.stats.first_byte.quantile(0.99) <= 0.05
    assert it.stats.duration.quantile(0.01) > 5.0
    assert round(it.stats.first_byte.total, 6) == 0.06
    it.over()
