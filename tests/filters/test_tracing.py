"""Trace context in and out, and the spans of what is sampled."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidecar.config.agent import Tracing as Config
from sidecar.core.records import SpanRecord
from sidecar.core.trace import parse_traceparent, trace_of
from sidecar.filters.retry import RetrySettings
from sidecar.filters.tracing import Tracing
from sidecar.resilience.sampling import Sampling
from support.http import Stage, request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"traceparent: 00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"traceparent: 00-{TRACE}-{PARENT}-00"


class Bench:
    def __init__(
        self,
        sample: float = 0.0,
        b3: bool = False,
        exporting: bool = True,
        propagate: tuple[str, ...] = ("w3c",),
        inbound: bool = True,
    ) -> None:
        self.spans: list[SpanRecord] = []
        self.stage = Stage()
        sampling = Sampling(sample, True, 1.0, self.stage.loop)
        record = self.spans.append if exporting else None
        self.filter = Tracing(("w3c", "b3") if b3 else propagate, inbound, random.Random(1), sampling, record)

    def send(self, *fields: str) -> Any:
        x = self.stage.exchange(request("GET /a?q=1 HTTP/1.1", *fields))
        self.filter.on_request(x)
        return x


def trace(x: Any) -> Any:
    """What the filter set, else what the request goes on with."""
    return x.trace or trace_of(x.head.get(b"traceparent"))


def values(x: Any, name: str) -> list[str]:
    """The values of a field in what goes on."""
    lines = x.head.as_http1().decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return [line.partition(": ")[2] for line in lines if line.lower().startswith(name + ":")]


def test_an_unsampled_context_passes_byte_for_byte() -> None:
    fields = (UNSAMPLED, "TraceState: a=1,b=2", "baggage: k=v")
    x = Bench().send(*fields)
    assert x.head.as_http1() == request("GET /a?q=1 HTTP/1.1", *fields).raw
    assert (trace(x).trace_id, trace(x).span_id, trace(x).sampled) == (TRACE, PARENT, False)


def test_a_sampled_one_gets_our_span_and_keeps_its_state() -> None:
    bench = Bench()
    x = bench.send("tracestate: a=1", SAMPLED, "baggage: k=v")
    (sent,) = values(x, "traceparent")
    assert sent == f"00-{TRACE}-{trace(x).span_id}-01"
    assert trace(x).span_id != PARENT
    assert trace(x).parent_id == PARENT
    assert values(x, "tracestate") == ["a=1"]
    assert values(x, "baggage") == ["k=v"]
    x.status = 200
    bench.filter.on_end(x)
    (span,) = bench.spans
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert span.span_id == trace(x).span_id
    assert span.attributes["url.path"] == "/a"  # never the query: it may hold secrets
    assert span.ok


def test_where_nothing_is_exported_a_sampled_one_passes_untouched() -> None:
    x = Bench(exporting=False).send(SAMPLED)
    assert values(x, "traceparent") == [f"00-{TRACE}-{PARENT}-01"]


def test_flags_that_are_known_go_on() -> None:
    x = Bench().send(f"traceparent: 00-{TRACE}-{PARENT}-ff")
    assert values(x, "traceparent")[0].endswith("-03")


def test_a_later_version_is_understood() -> None:
    x = Bench().send(f"traceparent: 01-{TRACE}-{PARENT}-01-more")
    assert values(x, "traceparent")[0].startswith(f"00-{TRACE}-")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01\r\ntraceparent: 00-{TRACE}-{PARENT}-01",
    ],
)
def test_a_malformed_one_is_replaced_and_its_state_dropped(value: str) -> None:
    x = Bench().send(f"traceparent: {value}", "tracestate: a=1", "baggage: k=v")
    (sent,) = values(x, "traceparent")
    assert parse_traceparent(sent.encode()) == (trace(x).trace_id, trace(x).span_id, 0)
    assert trace(x).trace_id != TRACE
    assert values(x, "tracestate") == []
    assert values(x, "baggage") == ["k=v"]


def test_where_none_came_a_new_one_begins() -> None:
    bench = Bench()
    ids = {trace(bench.send()).trace_id for _ in range(50)}
    assert len(ids) == 50
    x = bench.send("tracestate: a=1")  # it belongs to no trace
    assert values(x, "tracestate") == []
    assert values(x, "traceparent") == [f"00-{trace(x).trace_id}-{trace(x).span_id}-00"]


@pytest.mark.parametrize(("sample", "least", "most"), [(0.0, 0, 0), (0.5, 400, 600), (1.0, 1000, 1000)])
def test_the_share_of_new_traces_that_is_sampled(sample: float, least: int, most: int) -> None:
    bench = Bench(sample=sample)
    assert least <= sum(trace(bench.send()).sampled for _ in range(1000)) <= most


def test_b3_is_left_alone_unless_asked_for() -> None:
    x = Bench().send(f"b3: {TRACE}-{PARENT}-1")
    assert trace(x).trace_id != TRACE
    assert values(x, "b3") == [f"{TRACE}-{PARENT}-1"]


def test_b3_single() -> None:
    x = Bench(b3=True).send(f"b3: {TRACE}-{PARENT}-1-05e3ac9a4f6e3b90")
    assert (trace(x).trace_id, trace(x).parent_id, trace(x).sampled) == (TRACE, PARENT, True)
    assert values(x, "b3") == [f"{TRACE}-{trace(x).span_id}-1"]
    assert values(x, "traceparent") == [f"00-{TRACE}-{trace(x).span_id}-01"]


def test_b3_multi() -> None:
    x = Bench(b3=True).send(
        f"X-B3-TraceId: {TRACE[:16]}",
        f"X-B3-SpanId: {PARENT}",
        "X-B3-Sampled: 0",
        "X-B3-ParentSpanId: 05e3ac9a4f6e3b90",
    )
    assert trace(x).trace_id == "0" * 16 + TRACE[:16]
    assert values(x, "x-b3-traceid") == [trace(x).trace_id]
    assert values(x, "x-b3-spanid") == [trace(x).span_id]
    assert values(x, "x-b3-sampled") == ["0"]
    assert values(x, "x-b3-parentspanid") == [PARENT]


@pytest.mark.parametrize(
    ("field", "sampled"), [("b3: 0", False), ("b3: d", True), ("x-b3-sampled: 0", False), ("x-b3-flags: 1", True)]
)
def test_a_b3_decision_alone_is_honoured(field: str, sampled: bool) -> None:
    x = Bench(b3=True, sample=0.0 if sampled else 1.0).send(field)
    assert trace(x).sampled is sampled


def test_w3c_goes_before_b3() -> None:
    x = Bench(b3=True).send(SAMPLED, "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0")
    assert trace(x).trace_id == TRACE
    assert values(x, "b3") == [f"{TRACE}-{trace(x).span_id}-1"]


COMBINATIONS = [(), ("w3c",), ("b3",), ("w3c", "b3")]
B3_SENT = f"b3: {TRACE}-{PARENT}-1"


@pytest.mark.parametrize("sample", [0.0, 1.0])
@pytest.mark.parametrize("propagate", COMBINATIONS)
def test_only_formats_that_are_listed_are_written(propagate: tuple[str, ...], sample: float) -> None:
    x = Bench(sample=sample, propagate=propagate).send("x-own: 1")
    assert bool(values(x, "traceparent")) is ("w3c" in propagate)
    assert bool(values(x, "x-b3-traceid")) is ("b3" in propagate)
    if not propagate:
        assert x.head.as_http1() == request("GET /a?q=1 HTTP/1.1", "x-own: 1").raw


@pytest.mark.parametrize(
    "fields", [(SAMPLED,), (UNSAMPLED, "tracestate: a=1"), ("traceparent: nonsense",), ("tracestate: a=1",)]
)
@pytest.mark.parametrize("propagate", [(), ("b3",)])
def test_w3c_fields_pass_where_that_is_not_listed(propagate: tuple[str, ...], fields: tuple[str, ...]) -> None:
    x = Bench(sample=1.0, propagate=propagate).send(*fields)
    given = "".join(f"{field}\r\n" for field in fields)
    assert given in x.head.as_http1().decode()
    assert len(values(x, "traceparent")) == sum(field.startswith("traceparent") for field in fields)


@pytest.mark.parametrize("propagate", [(), ("w3c",)])
def test_b3_fields_pass_where_that_is_not_listed(propagate: tuple[str, ...]) -> None:
    x = Bench(sample=1.0, propagate=propagate).send(B3_SENT, "x-b3-traceid: 1")
    assert (values(x, "b3"), values(x, "x-b3-traceid")) == ([f"{TRACE}-{PARENT}-1"], ["1"])


def test_b3_alone_goes_on_with_the_trace_that_came() -> None:
    bench = Bench(propagate=("b3",))
    x = bench.send(B3_SENT, f"traceparent: 00-{'1' * 32}-{PARENT}-01")
    assert values(x, "b3") == [f"{TRACE}-{trace(x).span_id}-1"]
    assert values(x, "traceparent") == [f"00-{'1' * 32}-{PARENT}-01"]
    bench.filter.on_end(x)
    assert [span.trace_id for span in bench.spans] == [TRACE]


def test_where_nothing_is_listed_a_span_has_a_trace_of_its_own_and_the_log_names_what_there_is() -> None:
    bench = Bench(sample=1.0, propagate=())
    x = bench.send(SAMPLED)
    bench.filter.on_end(x)
    [span] = bench.spans
    assert trace(x).trace_id == span.trace_id != TRACE
    assert trace(Bench(propagate=()).send(SAMPLED)).trace_id == TRACE  # for the log; nothing of it was touched
    assert trace(Bench(sample=1.0, propagate=(), exporting=False).send()) is None


def test_the_same_trace_on_every_try_and_in_the_log() -> None:
    stage = Stage(retry=RetrySettings(initial_delay=0.0), tracing=Config(sample=1.0))
    client = stage.asks()
    sent = []
    for _ in range(3):
        upstream = stage.upstream()
        sent.append(upstream.hears().fields["traceparent"])
        upstream.answers(503)
    assert client.gets().status == 503
    *tries, whole = stage.spans
    assert sent == [f"00-{whole.trace_id}-{span.span_id}-01" for span in tries]
    assert len(set(sent)) == 3
    assert stage.records[0].trace_id == whole.trace_id
    stage.over()


def test_b3_is_another_one_for_each_try() -> None:
    stage = Stage(retry=RetrySettings(initial_delay=0.0), tracing=Config(sample=1.0, propagate=("w3c", "b3")))
    client = stage.asks("GET /", f"b3: {TRACE}-{PARENT}-1")
    heard = []
    for status in (503, 200):
        upstream = stage.upstream()
        heard.append(upstream.hears())
        upstream.answers(status)
    assert client.gets().status == 200
    *tries, whole = stage.spans
    assert (whole.trace_id, whole.parent_id) == (TRACE, PARENT)
    for message, span in zip(heard, tries, strict=True):
        assert message.head.count(b"b3: ") == message.head.count(b"traceparent: ") == 1
        assert message.fields["b3"] == f"{TRACE}-{span.span_id}-1"
        assert message.fields["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
    stage.over()


def test_a_span_that_no_try_used_has_the_id_that_was_written() -> None:
    stage = Stage(endpoints=0, tracing=Config(sample=1.0))
    x = stage.exchange()
    tracing = stage.filter(Tracing)
    tracing.on_request(x)
    tracing.on_end(x)
    (span,) = stage.spans
    assert values(x, "traceparent") == [f"00-{span.trace_id}-{span.span_id}-01"]


def test_an_inbound_span_of_something_that_was_refused() -> None:
    stage = Stage(inbound=True, endpoints=0, tracing=Config(sample=1.0))
    assert stage.asks().gets().error == "no_endpoints"
    (span,) = stage.spans
    assert (span.kind, span.ok, span.attributes["error.type"]) == ("server", False, "no_endpoints")
    assert span.attributes["sidecar.error"] == "no_endpoints"
    stage.over()
