"""A finished exchange as spans, by the conventions, with its tries; and what is exported though it is not sampled."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from sidecar.config.agent import Tracing
from sidecar.config.traffic import Match
from sidecar.core.records import LONGEST_TEXT, SpanRecord
from sidecar.core.trace import parse_traceparent
from sidecar.filters.retry import RetrySettings
from support.http import Message, Stage
from support.ports import route_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = f"traceparent: 00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"traceparent: 00-{TRACE}-{CALLER}-00"
ALL = Tracing(sample=1.0)
RETRY = RetrySettings(initial_delay=0.0)


def sent(message: Message) -> tuple[str, str, int]:
    """The context that a request goes on with."""
    context = parse_traceparent(message.fields["traceparent"].encode())
    assert context is not None
    return context


def exchanged(stage: Stage, line: str = "GET /a?key=secret", *fields: str, status: int = 200) -> Message:
    """One request and its answer; what the upstream heard."""
    client = stage.asks(line, *fields)
    upstream = stage.upstream()
    heard = upstream.hears()
    upstream.answers(status)
    assert client.gets().status == status
    return heard


def kinds(spans: list[SpanRecord]) -> list[str]:
    return [span.kind for span in spans]


def test_an_inbound_exchange_is_a_server_span() -> None:
    stage = Stage(inbound=True, tracing=ALL)
    heard = exchanged(stage, "GET /a?key=secret", SAMPLED)
    (span,) = stage.spans
    assert (span.name, span.kind, span.ok) == ("GET", "server", True)
    assert (span.trace_id, span.parent_id) == (TRACE, CALLER)
    assert sent(heard) == (TRACE, span.span_id, 1)
    assert span.attributes.pop("sidecar.request_id")
    assert span.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/a",
        "url.scheme": "http",
        "server.address": "t",
        "server.port": 80,
        "client.address": "10.1.1.1",
        "network.protocol.version": "1.1",
        "sidecar.upstream": "up",
        "sidecar.attempts": 1,
    }
    assert "secret" not in repr(stage.spans)
    stage.over()


def test_outbound_each_try_is_a_client_span_below_that_of_the_exchange() -> None:
    stage = Stage(endpoints=2, tracing=ALL, retry=RETRY)
    client = stage.asks("GET /a?key=secret", SAMPLED)
    heard = []
    for status in (503, 502, 200):
        upstream = stage.upstream()
        heard.append(sent(upstream.hears()))
        stage.advance(0.25)
        upstream.answers(status)
    assert client.gets().status == 200
    *tries, whole = stage.spans
    assert kinds(stage.spans) == ["client", "client", "client", "internal"]
    assert heard == [(TRACE, span.span_id, 1) for span in tries]
    assert {span.parent_id for span in tries} == {whole.span_id}
    assert (whole.parent_id, whole.name, whole.ok) == (CALLER, "GET up", True)
    assert whole.attributes["sidecar.attempts"] == 3
    assert [span.attributes.get("http.request.resend_count") for span in tries] == [None, 1, 2]
    assert [span.attributes["http.response.status_code"] for span in tries] == [503, 502, 200]
    assert [span.attributes.get("error.type") for span in tries] == ["503", "502", None]
    assert [span.ok for span in tries] == [False, False, True]
    assert {span.attributes["network.peer.port"] for span in tries} == {1, 2}
    first = tries[0]
    assert (first.name, first.attributes["network.peer.address"]) == ("GET", "10.0.0.1")
    assert (first.attributes["server.address"], first.attributes["server.port"]) == ("t", 80)
    assert first.attributes["url.full"] == "http://t:80/a"
    # By the listener's clock: a quarter of a second each, one after the other.
    assert [round((span.end_ns - span.start_ns) / 1e9, 2) for span in tries] == [0.25] * 3
    assert all(abs(one.end_ns - other.start_ns) < 10_000 for one, other in pairwise(tries))
    assert "secret" not in repr(stage.spans)
    stage.over()


def test_tries_that_have_no_answer_say_why() -> None:
    stage = Stage(tracing=ALL, retry=RetrySettings(max_attempts=2, initial_delay=0.0))
    client = stage.asks()
    stage.upstream().transport.lose(ConnectionResetError())
    stage.loop.settle()
    stage.upstream().transport.lose(ConnectionResetError())
    stage.loop.settle()
    assert client.gets().error == "upstream_reset"
    one, two, whole = stage.spans
    assert [span.attributes["error.type"] for span in stage.spans] == ["upstream_reset"] * 3
    assert whole.attributes["http.response.status_code"] == 502
    assert not one.ok
    assert "http.response.status_code" not in two.attributes
    stage.over()


@pytest.mark.parametrize(("status", "whole", "try_ok"), [(200, True, True), (404, True, False), (500, False, False)])
def test_what_counts_as_an_error_on_either_side(status: int, whole: bool, try_ok: bool) -> None:
    stage = Stage(tracing=ALL, retry=None)
    exchanged(stage, status=status)
    assert [span.ok for span in stage.spans] == [try_ok, whole]
    assert ("error.type" in stage.spans[0].attributes) is not try_ok
    inbound = Stage(inbound=True, tracing=ALL)
    exchanged(inbound, status=status)
    (span,) = inbound.spans
    assert span.ok is whole
    assert span.attributes.get("error.type") == (None if whole else str(status))


def test_a_client_that_leaves_is_no_error() -> None:
    stage = Stage(tracing=ALL)
    client = stage.asks()
    stage.upstream().hears()
    client.transport.lose(ConnectionResetError())
    stage.loop.settle()
    assert [(span.kind, span.ok) for span in stage.spans] == [("client", True), ("internal", True)]
    assert not any("error.type" in span.attributes for span in stage.spans)
    stage.over()


def test_an_unknown_method_is_no_name() -> None:
    stage = Stage(tracing=ALL)
    exchanged(stage, "BREW /pot")
    one, whole = stage.spans
    assert (one.name, whole.name) == ("HTTP", "HTTP up")
    for span in stage.spans:
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "BREW"
    stage.over()


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("ollama:11434", "ollama", 11434),
        ("127.0.0.1:11434", "up", 11434),
        ("localhost", "up", 80),
        ("[2001:db8::1]:8080", "2001:db8::1", 8080),
        ("ollama:", "ollama", 80),
    ],
)
def test_whom_the_client_meant(host: str, address: str, port: int) -> None:
    stage = Stage(tracing=ALL)
    client = stage.client()
    client.says(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers()
    for span in stage.spans:
        assert (span.attributes["server.address"], span.attributes["server.port"]) == (address, port)
    shown = f"[{address}]" if ":" in address else address
    assert stage.spans[0].attributes["url.full"] == f"http://{shown}:{port}/"
    stage.over()


def test_no_text_is_longer_than_it_may_be() -> None:
    stage = Stage(tracing=ALL)
    exchanged(stage, "GET /" + "x" * 5000, "x-request-id: " + "y" * 100)
    for span in stage.spans:
        assert all(len(it) <= LONGEST_TEXT for it in span.attributes.values() if isinstance(it, str))
    stage.over()


# -- what is not sampled -----------------------------------------------------------------------------------------------


def test_what_goes_well_is_not_exported() -> None:
    stage = Stage()
    exchanged(stage, "GET /", UNSAMPLED)
    exchanged(stage)
    assert stage.spans == []
    stage.over()


def test_a_failure_in_a_trace_of_ours_has_the_id_that_is_on_the_wire() -> None:
    stage = Stage(inbound=True)
    trace_id, span_id, flags = sent(exchanged(stage, status=500))
    (span,) = stage.spans
    assert (span.trace_id, span.span_id, span.parent_id, flags) == (trace_id, span_id, "", 0)
    stage.over()


def test_a_failure_in_a_caller_s_trace_is_a_child_of_the_caller_s_span() -> None:
    stage = Stage(inbound=True)
    heard = exchanged(stage, "GET /", UNSAMPLED, status=500)
    assert sent(heard) == (TRACE, CALLER, 0)  # passed as it came, its flag too
    (span,) = stage.spans
    assert (span.trace_id, span.parent_id) == (TRACE, CALLER)
    assert span.span_id != CALLER
    stage.over()


def test_tries_of_an_unsampled_exchange_are_spans_too() -> None:
    stage = Stage(retry=RETRY)
    client = stage.asks()
    wire = set()
    for status in (503, 200):
        upstream = stage.upstream()
        wire.add(sent(upstream.hears()))
        upstream.answers(status)
    assert client.gets().status == 200
    one, two, whole = stage.spans
    assert wire == {(whole.trace_id, whole.span_id, 0)}
    assert (one.parent_id, two.parent_id) == (whole.span_id, whole.span_id)
    assert len({one.span_id, two.span_id, whole.span_id}) == 3
    stage.over()


@pytest.mark.parametrize(
    "field",
    [
        f"b3: {TRACE}-{CALLER}-0",
        f"x-b3-traceid: {TRACE}\r\nx-b3-spanid: {CALLER}\r\nx-b3-sampled: 0",
    ],
)
def test_b3_callers_have_their_failures_too(field: str) -> None:
    stage = Stage(inbound=True, tracing=Tracing(sample=1.0, propagate=("w3c", "b3")))
    heard = exchanged(stage, "GET /", field, status=502)
    (span,) = stage.spans
    assert (span.trace_id, span.parent_id) == (TRACE, CALLER)
    assert sent(heard) == (TRACE, span.span_id, 0)
    stage.over()


def test_a_slow_one_is_exported_by_the_time_until_its_head() -> None:
    stage = Stage(tracing=Tracing(sample=0.0, slow=2.0))
    for wait, expected in ((1.9, 0), (2.0, 2)):
        client = stage.asks()
        upstream = stage.upstream()
        stage.advance(wait)
        upstream.answers()
        client.gets()
        assert len(stage.spans) == expected
    stage.spans.clear()
    client = stage.asks()
    upstream = stage.upstream()
    upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    stage.advance(5.0)
    upstream.says(b"ok")
    client.gets()
    assert stage.spans == []
    stage.over()


@pytest.mark.parametrize(("always", "expected"), [((), 0), (("slow",), 0), (("errors",), 2)])
def test_what_is_always_exported_can_be_chosen(always: tuple[str, ...], expected: int) -> None:
    stage = Stage(retry=None, tracing=Tracing(sample=0.0, always=always))
    exchanged(stage, status=503)
    assert len(stage.spans) == expected
    stage.over()


def test_a_client_s_mistake_is_no_failure() -> None:
    stage: Any = Stage(inbound=True)
    exchanged(stage, status=404)
    client = stage.asks("GET /", "expect: nonsense")
    assert client.gets().status == 400
    assert stage.spans == []
    stage.over()


def test_no_more_than_so_many_are() -> None:
    stage = Stage(inbound=True)
    for _ in range(15):
        exchanged(stage, status=500)
    assert len(stage.spans) == 10
    stage.over()


def test_a_route_that_matches_is_in_the_name() -> None:
    routes = (route_of(match=Match(path="/api/*")), route_of(match=Match(path="*", methods=("PUT",))))
    stage = Stage(inbound=True, tracing=ALL, routes=routes)
    for line in ("GET /api/v1/tasks?key=secret", "PUT /other", "GET /other"):
        exchanged(stage, line)
    assert [span.name for span in stage.spans] == ["GET /api/*", "PUT", "GET"]
    assert [span.attributes.get("http.route") for span in stage.spans] == ["/api/*", None, None]
    stage.over()
