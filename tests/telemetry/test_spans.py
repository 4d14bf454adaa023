"""Spans on their way to a real HTTP collector, which decodes them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.telemetry import spans
from sidecar.telemetry.spans import SpanError, SpanExporter
from support.collector import Collector

RECORD = SpanRecord(
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0xB7AD6B7169203331,
    parent_id=0x00F067AA0BA902B7,
    name="GET ollama",
    kind="client",
    start_ns=1_700_000_000_000_000_000,
    end_ns=1_700_000_000_250_000_000,
    attributes={"http.request.method": "GET", "http.response.status_code": 200},
    ok=True,
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "INTERVAL", 0.01)
    monkeypatch.setattr(spans, "SEND_SECONDS", 0.5)


@contextmanager
def exporting(url: str) -> Iterator[SpanExporter]:
    sdk = logging.getLogger("opentelemetry.exporter")
    exporter = SpanExporter(url, "tasks", "tasks-1")
    try:
        yield exporter
    finally:
        exporter.close()
        sdk.handlers.clear()
        sdk.propagate = True


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_span_arrives_as_it_was_recorded(collector: Collector) -> None:
    with exporting(f"{collector.url}/") as exporter:
        exporter.record(RECORD)
        until(lambda: exporter.sent == 1)
    assert collector.paths == ["/v1/traces"]
    (resource,) = collector.requests[0].resource_spans
    about = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("tasks", "tasks-1")
    scope = resource.scope_spans[0].scope
    assert (scope.name, scope.version) == ("sidecar", __version__)
    (span,) = collector.spans
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert (span.span_id.hex(), span.parent_span_id.hex()) == ("b7ad6b7169203331", "00f067aa0ba902b7")
    assert (span.name, span.kind) == ("GET ollama", span.SPAN_KIND_CLIENT)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (RECORD.start_ns, RECORD.end_ns)
    assert {a.key: a.value.string_value or a.value.int_value for a in span.attributes} == RECORD.attributes
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_roots_servers_and_failures(collector: Collector) -> None:
    with exporting(collector.url) as exporter:
        exporter.record(RECORD._replace(parent_id=0, kind="server", ok=False))
    (span,) = collector.spans
    assert (span.parent_span_id, span.kind) == (b"", span.SPAN_KIND_SERVER)
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_messages_have_kinds_of_their_own(collector: Collector) -> None:
    with exporting(collector.url) as exporter:
        exporter.record(RECORD._replace(name="ai.tasks publish", kind="producer"))
        exporter.record(RECORD._replace(name="tasks deliver", kind="consumer"))
    first, second = collector.spans
    assert (first.kind, second.kind) == (first.SPAN_KIND_PRODUCER, first.SPAN_KIND_CONSUMER)


def test_names_that_are_no_text_cost_nobody_a_span(collector: Collector) -> None:
    name = b"\xff".decode("utf-8", "surrogateescape")
    with exporting(collector.url) as exporter:
        exporter.record(RECORD._replace(name=f"publish {name}", attributes={"messaging.destination.name": name}))
    (span,) = collector.spans
    assert (span.name, span.attributes[0].value.string_value) == ("publish \\udcff", "\\udcff")


def test_the_end_sends_what_waits(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "INTERVAL", 60)
    monkeypatch.setattr(spans, "BATCH", 100)
    with exporting(collector.url) as exporter:
        for n in range(250):
            exporter.record(RECORD._replace(span_id=n + 1))
    assert [int.from_bytes(span.span_id, "big") for span in collector.spans] == list(range(1, 251))
    assert (len(collector.requests), exporter.sent, exporter.dropped) == (3, 250, 0)


def test_a_full_queue_drops_and_counts(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "INTERVAL", 60)
    monkeypatch.setattr(spans, "QUEUE", 3)
    with exporting(collector.url) as exporter:
        for _ in range(5):
            exporter.record(RECORD)
        assert exporter.dropped == 2
    assert len(collector.spans) == 3


def test_only_transitions_are_logged(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.status = 400
    with caplog.at_level(logging.INFO), exporting(collector.url) as exporter:
        for n in range(1, 4):
            exporter.record(RECORD)
            until(lambda n=n: exporter.dropped == n)  # type: ignore[misc]
        collector.status = 200
        for n in range(1, 3):
            exporter.record(RECORD)
            until(lambda n=n: exporter.sent == n)  # type: ignore[misc]
    lost, back = caplog.records
    assert lost.levelname == "WARNING"
    assert lost.getMessage().startswith("spans are dropped: the trace collector does not take them: ")
    assert "400" in lost.getMessage()
    assert (back.levelname, back.getMessage()) == ("INFO", "the trace collector takes spans again")


def test_a_collector_that_is_down_costs_spans_and_no_time_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "FLUSH_SECONDS", 600.0)
    gone = Collector()
    gone.server.server_close()
    with exporting(gone.url) as exporter:
        exporter.record(RECORD)
        until(lambda: exporter.dropped == 1)
        exporter.record(RECORD)
        begun = time.monotonic()
        exporter.close()
        assert time.monotonic() - begun < 60
    assert exporter.dropped == 2
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_a_collector_that_hangs_holds_up_nobody(collector: Collector) -> None:
    collector.hold.clear()
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
        exporter.close()
        assert not collector.hold.is_set()
    until(lambda: exporter.dropped == 1)


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SpanError) as caught:
        SpanExporter("http://127.0.0.1:4318", "tasks", "tasks-1")
    assert str(caught.value) == (
        'needs the OpenTelemetry packages: pip install "sidecar[otlp]", or leave tracing.otlp out'
    )
