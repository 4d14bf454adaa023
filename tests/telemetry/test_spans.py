"""Spans on their way to a real HTTP collector, which decodes them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.telemetry import spans
from sidecar.telemetry.span_metrics import REASONS, families
from sidecar.telemetry.spans import SpanExporter
from support.collector import Collector, attributes
from support.patience import PATIENCE

RECORD = SpanRecord(
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    parent_id="00f067aa0ba902b7",
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
    monkeypatch.setattr(spans, "BREATH", 0.0)
    # Only what a test is about may be over before its time.
    monkeypatch.setattr(spans, "SEND_SECONDS", PATIENCE)
    monkeypatch.setattr(spans, "FLUSH_SECONDS", PATIENCE)
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def exporting(url: str) -> Iterator[SpanExporter]:
    exporter = SpanExporter(url, "tasks", "tasks-1")
    try:
        yield exporter
    finally:
        exporter.close()


def lost(exporter: SpanExporter) -> dict[str, int]:
    return {reason: count for reason, count in exporter.dropped.items() if count}


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
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
    about = attributes(resource.resource)
    assert about == {"service.name": "tasks", "service.instance.id": "tasks-1", "sidecar.version": __version__}
    scope = resource.scope_spans[0].scope
    assert (scope.name, scope.version) == ("sidecar", __version__)
    (span,) = collector.spans
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert (span.span_id.hex(), span.parent_span_id.hex()) == ("b7ad6b7169203331", "00f067aa0ba902b7")
    assert (span.name, span.kind) == ("GET ollama", span.SPAN_KIND_CLIENT)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (RECORD.start_ns, RECORD.end_ns)
    assert attributes(span) == RECORD.attributes
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_roots_servers_and_failures(collector: Collector) -> None:
    with exporting(collector.url) as exporter:
        exporter.record(RECORD._replace(parent_id="", kind="server", ok=False))
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
            exporter.record(RECORD._replace(span_id=f"{n + 1:016x}"))
    assert [int.from_bytes(span.span_id, "big") for span in collector.spans] == list(range(1, 251))
    assert (len(collector.requests), exporter.sent, lost(exporter)) == (3, 250, {})
    assert collector.connections == 1


def test_a_full_queue_drops_and_counts(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "INTERVAL", 60)
    monkeypatch.setattr(spans, "QUEUE", 3)
    with exporting(collector.url) as exporter:
        for _ in range(5):
            exporter.record(RECORD)
        assert lost(exporter) == {"queue_full": 2}
    assert len(collector.spans) == 3


def test_only_transitions_are_logged(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    collector.status = 400
    with caplog.at_level(logging.INFO), exporting(collector.url) as exporter:
        for n in range(1, 4):
            exporter.record(RECORD)
            until(lambda n=n: lost(exporter) == {"refused": n})  # type: ignore[misc]
        collector.status = 200
        for n in range(1, 3):
            exporter.record(RECORD)
            until(lambda n=n: exporter.sent == n)  # type: ignore[misc]
    warned, back = caplog.records
    assert warned.levelname == "WARNING"
    assert warned.getMessage().startswith("spans are dropped: the trace collector does not take them: ")
    assert "400" in warned.getMessage()
    assert (back.levelname, back.getMessage()) == ("INFO", "the trace collector takes spans again")


def test_a_collector_that_is_down_costs_spans_and_no_time_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "FLUSH_SECONDS", 600.0)
    gone = Collector()
    gone.server.server_close()
    with exporting(gone.url) as exporter:
        exporter.record(RECORD)
        until(lambda: lost(exporter) == {"unreachable": 1})
        exporter.record(RECORD)
        begun = time.monotonic()
        exporter.close()
        assert time.monotonic() - begun < 60
    assert sum(lost(exporter).values()) == 2
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_a_collector_that_hangs_holds_up_nobody(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "SEND_SECONDS", 0.3)
    collector.hold.clear()
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
        exporter.close()
        assert not collector.hold.is_set()
    until(lambda: lost(exporter) == {"unreachable": 1})


def test_what_a_collector_takes_only_in_part_is_counted_so(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answer = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}}'
    with caplog.at_level(logging.INFO), exporting(collector.url) as exporter:
        for n in range(1, 4):
            exporter.record(RECORD)
            until(lambda n=n: lost(exporter) == {"rejected": n})  # type: ignore[misc]
        collector.answer = b"{}"
        exporter.record(RECORD)
        until(lambda: exporter.sent == 1)
        until(lambda: len(caplog.records) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "the trace collector does not take some of the spans: too old",
        "the trace collector takes spans again",
    ]


@pytest.mark.parametrize("status", [429, 503])
def test_a_collector_that_is_busy_gets_the_same_once_more(collector: Collector, status: int) -> None:
    collector.status, collector.fields = status, {"retry-after": "0"}
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
        until(lambda: lost(exporter) == {"refused": 1})
        assert collector.asked == 2
        exporter.record(RECORD)  # it is known to be busy
        until(lambda: lost(exporter) == {"refused": 2})
        assert collector.asked == 3
        collector.status = 200
        exporter.record(RECORD)
        until(lambda: exporter.sent == 1)


def test_one_that_asks_for_a_long_wait_gets_nothing_twice(collector: Collector) -> None:
    collector.status, collector.fields = 503, {"retry-after": "6"}
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
        until(lambda: lost(exporter) == {"refused": 1})
    assert collector.asked == 1


def test_the_end_does_not_wait_for_a_busy_one(collector: Collector) -> None:
    collector.status, collector.fields = 503, {"retry-after": "5"}
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
        until(lambda: collector.asked == 1)
    until(lambda: lost(exporter) == {"refused": 1})
    assert collector.asked == 1


def test_what_opentelemetry_s_environment_says_goes_along(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=mesh,service.name=other,service.instance.id=other")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2")
    with caplog.at_level(logging.DEBUG), exporting(collector.url) as exporter:
        exporter.record(RECORD)
        until(lambda: exporter.sent == 1)
        collector.status = 500
        exporter.record(RECORD)
        until(lambda: lost(exporter) == {"refused": 1})
    about = attributes(collector.resources[0].resource)
    assert (about["team"], about["service.name"], about["service.instance.id"]) == ("mesh", "tasks", "tasks-1")
    assert collector.headers[0]["authorization"] == "Bearer hunter2"
    assert "hunter2" not in caplog.text


def test_the_service_s_name_may_come_from_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "elsewhere")
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
    assert len(collector.by_service("elsewhere")) == 1


def test_metrics_of_what_became_of_spans(collector: Collector) -> None:
    with exporting(collector.url) as exporter:
        exporter.record(RECORD)
    sent, dropped, withheld = families(exporter, 7)
    assert withheld.samples == [((), 7)]
    assert sent.samples == [((), 1)]
    assert {labels[0]: value for labels, value in dropped.samples} == dict.fromkeys(REASONS, 0)
    assert families(None, 0)[0].samples == [((), 0)]
