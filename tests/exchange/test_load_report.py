"""Sidecars tell each other their load, and apps do not see it; what peers send is hostile until it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.limits import Limits
from sidecar.endpoints.load import LONGEST, Report, Reporter
from sidecar.exchange.load_report import read
from sidecar.http.h1.head import parse_response
from support.http import Stage

OURS = "endpoint-load-metrics: TEXT named_metrics.sidecar_in_flight=7,named_metrics.sidecar_latency_ms=12.5"
THEIRS = "Endpoint-Load-Metrics: TEXT cpu_utilization=0.3, named_metrics.kv=0.5"


@given(st.integers(0, 10**6), st.floats(0.0, 1e6))
def test_what_is_written_can_be_read(active: int, seconds: float) -> None:
    report = read(Reporter().report(active, seconds, 5.0))
    assert report is not None
    assert report.in_flight == active
    assert report.latency == pytest.approx(min(seconds, LONGEST), abs=0.0001)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"TEXT named_metrics.sidecar_in_flight=7",
        b"TEXT named_metrics.sidecar_in_flight=-7,named_metrics.sidecar_latency_ms=1",
        b"TEXT named_metrics.sidecar_in_flight=7,named_metrics.sidecar_latency_ms=nan",
        b"TEXT named_metrics.sidecar_in_flight=7,named_metrics.sidecar_latency_ms=1e9",
        b"TEXT named_metrics.sidecar_in_flight=7.5,named_metrics.sidecar_latency_ms=1",
        b"TEXT named_metrics.sidecar_in_flight=" + b"9" * 5000 + b",named_metrics.sidecar_latency_ms=1",
        b"TEXT named_metrics.sidecar_in_flight=7,named_metrics.sidecar_latency_ms=1." + b"9" * 5000,
        b"text named_metrics.sidecar_in_flight=7,named_metrics.sidecar_latency_ms=1",
    ],
)
def test_what_is_no_report(value: bytes) -> None:
    assert read(value) is None


@given(st.binary(max_size=200))
def test_no_report_is_above_the_bounds(value: bytes) -> None:
    prefix = b"TEXT named_metrics.sidecar_in_flight=1,named_metrics.sidecar_latency_ms="
    for each in (value, prefix + value):
        report = read(each)
        assert report is None or (0 <= report.in_flight < 10**7 and 0.0 <= report.latency <= LONGEST)


def test_a_latency_fades_out_of_what_is_reported() -> None:
    it = Reporter()
    assert it.report(1, 1.0, 0.0).endswith(b"=1000.0")
    assert it.report(1, 0.0, 1.0).endswith(b"=367.9")
    assert it.report(1, 0.01, 10.0).endswith(b"=10.0")


def test_a_line_is_taken_out_and_others_stay() -> None:
    raw = f"HTTP/1.1 200 OK\r\n{OURS}\r\nx: 1\r\n{THEIRS}\r\n{OURS.replace('=7', '=8')}\r\ncontent-length: 0\r\n\r\n"
    head = parse_response(raw.encode(), Limits(), "GET")
    taken = head.take(b"endpoint-load-metrics", b"TEXT named_metrics.sidecar_")
    assert taken == b"TEXT named_metrics.sidecar_in_flight=8,named_metrics.sidecar_latency_ms=12.5"
    assert head.raw == f"HTTP/1.1 200 OK\r\nx: 1\r\n{THEIRS}\r\ncontent-length: 0\r\n\r\n".encode()
    assert head.take(b"endpoint-load-metrics", b"TEXT named_metrics.sidecar_") is None


# -- the inbound side -----------------------------------------------------------------------------------------------


def test_an_inbound_port_reports_to_who_asks() -> None:
    it = Stage(inbound=True)
    client = it.client()
    client.asks("GET /", "X-Sidecar-Load: 1")
    upstream = it.upstream()
    assert "x-sidecar-load" not in upstream.hears().fields
    it.advance(0.04)
    upstream.answers(200, b"ok", THEIRS)
    answer = client.gets()
    assert OURS.replace("=7", "=1").replace("12.5", "40.0").encode() in answer.head
    assert THEIRS.encode() in answer.head
    client.asks("GET /")
    upstream.hears()
    upstream.answers(200, b"ok")
    assert "endpoint-load-metrics" not in client.gets().fields
    it.over()


def test_an_app_gets_no_report_from_its_own_sidecar() -> None:
    it = Stage()
    client = it.asks("GET /", "x-sidecar-load: 1")
    upstream = it.upstream()
    assert "x-sidecar-load" not in upstream.hears().fields
    upstream.answers()
    assert "endpoint-load-metrics" not in client.gets().fields
    it.over()


# -- the outbound side -----------------------------------------------------------------------------------------------


def test_a_report_goes_to_the_balancer_and_not_to_the_app() -> None:
    it = Stage(balancer="prequal")
    client = it.asks()
    upstream = it.upstream()
    assert upstream.hears().fields["x-sidecar-load"] == "1"
    upstream.answers(200, b"ok", OURS, THEIRS)
    answer = client.gets()
    assert OURS.encode() not in answer.head
    assert THEIRS.encode() in answer.head
    assert it.listener.cluster.endpoints[0].load.report == Report(7, 0.0125)
    it.over()


def test_what_is_no_report_does_not_reach_the_app_either() -> None:
    it = Stage(balancer="prequal")
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(200, b"ok", "endpoint-load-metrics: TEXT named_metrics.sidecar_in_flight=much")
    assert "endpoint-load-metrics" not in client.gets().fields
    assert it.listener.cluster.endpoints[0].load.report is None
    it.over()


def test_where_nothing_was_asked_everything_passes() -> None:
    it = Stage(balancer="peak_ewma")
    client = it.asks()
    upstream = it.upstream()
    assert "x-sidecar-load" not in upstream.hears().fields
    upstream.answers(200, b"ok", OURS)
    assert OURS.encode() in client.gets().head
    it.over()


def test_a_reload_begins_and_ends_the_asking() -> None:
    it = Stage()
    client = it.client()
    for balancer, asked in (("prequal", True), ("random", False)):
        it.reload(balancer=balancer)
        client.asks()
        upstream = it.upstream()
        assert ("x-sidecar-load" in upstream.hears().fields) is asked
        upstream.answers()
        client.gets()
    it.over()


@pytest.mark.parametrize(
    ("status", "field", "seconds"),
    [(503, "retry-after: 60", 60.0), (429, "retry-after: 7", 7.0), (503, "retry-after: soon", 5.0), (503, "x: 1", 5.0)],
)
def test_an_endpoint_that_wants_to_be_left_alone_is(status: int, field: str, seconds: float) -> None:
    it = Stage(balancer="peak_ewma", retry=None, circuit_breaker=None)
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(status, b"", field)
    client.gets()
    load = it.listener.cluster.endpoints[0].load
    assert load.seconds(it.loop()) == pytest.approx(seconds, rel=0.01)
    it.over()
