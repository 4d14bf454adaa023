"""Spans of sampled exchanges, sent to a collector by OTLP over HTTP.

The hot path appends a tuple to a bounded queue. A thread turns batches of them into the OpenTelemetry SDK's objects and
lets the SDK's exporter send them; its packages are only imported when a collector is configured. A collector that is
away costs spans, which are counted, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, Final

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.core.text import utf8

logger = logging.getLogger("sidecar.spans")

#: Spans that wait, at most; and how many are sent at once, and how often, seconds.
QUEUE: Final = 4096
BATCH: Final = 512
INTERVAL: Final = 1.0
#: How long one request to the collector may take, and how long the end waits for the last one, seconds.
SEND_SECONDS: Final = 1.5
FLUSH_SECONDS: Final = 2.0


class SpanError(Exception):
    """Spans cannot be exported; the text says what to install."""


class SpanExporter:
    """Sends spans of an instance of a service to the collector at ``url``. Raises :class:`SpanError` when the packages
    for it are missing."""

    def __init__(self, url: str, service: str, instance: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise SpanError(
                'needs the OpenTelemetry packages: pip install "sidecar[otlp]", or leave tracing.otlp out'
            ) from error
        self._reason = _Reason()
        sdk = logging.getLogger("opentelemetry.exporter")
        sdk.handlers[:] = [self._reason]
        sdk.propagate = False  # it logs every failure; we log transitions, with its reason
        # ``create`` adds what OTEL_RESOURCE_ATTRIBUTES says, as users of OpenTelemetry expect.
        self._resource = Resource.create(
            {"service.name": service, "service.instance.id": instance, "sidecar.version": __version__}
        )
        self._exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
        self._waiting: deque[SpanRecord] = deque()
        #: Spans that were not delivered, and those that were.
        self.dropped = 0
        self.sent = 0
        self._up = True
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span exporter", daemon=True)
        self._thread.start()

    def record(self, span: SpanRecord) -> None:
        """Queue a span; never blocks."""
        if len(self._waiting) >= QUEUE:
            self.dropped += 1
        else:
            self._waiting.append(span)

    def close(self) -> None:
        """Send what is queued, for at most :data:`FLUSH_SECONDS`; what could not be sent counts as dropped."""
        self._ending.set()
        self._thread.join(FLUSH_SECONDS)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._ending.wait(INTERVAL):
            self._flush()
        if self._up:  # a collector that is away must not hold up the end
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if self._send(batch):
                self.sent += len(batch)
            else:
                self.dropped += len(batch)
                if self._ending.is_set():
                    return

    def _send(self, batch: list[SpanRecord]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._reason.text = ""
        try:
            good = self._exporter.export([_sdk_span(record, self._resource) for record in batch])
            up = good is SpanExportResult.SUCCESS
        except Exception as error:
            self._reason.text = self._reason.text or repr(error)
            up = False
        if up != self._up:
            self._up = up
            if up:
                logger.info("the trace collector takes spans again", extra={"dropped": self.dropped})
            else:
                logger.warning("spans are dropped: the trace collector does not take them: %s", self._reason.text)
        return up


class _Reason(logging.Handler):
    """Keeps the first thing that the SDK says about an export that fails."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if not self.text:
            self.text = record.getMessage()[:300]


def _sdk_span(record: SpanRecord, resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    sampled = TraceFlags(TraceFlags.SAMPLED)
    parent = None
    if record.parent_id:
        parent = SpanContext(record.trace_id, record.parent_id, is_remote=True, trace_flags=sampled)
    return ReadableSpan(
        name=utf8(record.name),
        context=SpanContext(record.trace_id, record.span_id, is_remote=False, trace_flags=sampled),
        parent=parent,
        resource=resource,
        attributes={key: utf8(it) if isinstance(it, str) else it for key, it in record.attributes.items()},
        kind=SpanKind[record.kind.upper()],
        instrumentation_scope=InstrumentationScope("sidecar", __version__),
        status=Status(StatusCode.UNSET if record.ok else StatusCode.ERROR),
        start_time=record.start_ns,
        end_time=record.end_ns,
    )
