"""Carries the trace context through, begins a trace where none came, and records a span of what is sampled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.config.agent import Tracing as Config
from sidecar.core.ids import Ids
from sidecar.core.records import SpanRecord
from sidecar.core.trace import SAMPLED, Trace, b3_fields, parse_b3, parse_traceparent, traceparent
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.request import Request

_B3_FIELDS: Final = (b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags")


class Tracing(Filter):
    """Early in the chain, so that whatever happens later has a trace id.

    A context that we add no span to (it is not sampled, or no collector is configured) passes byte for byte: its parent
    stays the caller, or traces would have holes in them. A malformed one is replaced. ``tracestate`` without a valid
    ``traceparent`` belongs to no trace and goes (W3C Trace Context §3.3). ``baggage`` is not ours to touch.

    Only the formats of ``tracing.propagate`` are understood and written: the fields of another are end-to-end ones like
    any. Where there is none of them, a span that is recorded has a trace of its own, and log lines name that one, or
    else the one that the client sent.
    """

    name: ClassVar[str] = "tracing"

    def __init__(
        self, config: Config, kind: str, rng: random.Random, record: Callable[[SpanRecord], None] | None
    ) -> None:
        self._sample = config.sample
        self._w3c = "w3c" in config.propagate
        self._b3 = "b3" in config.propagate
        self._kind = kind
        self._rng = rng
        self._ids = Ids(rng)
        self._record = record

    def on_request(self, x: Request) -> None:
        head = x.head
        if self._w3c:
            given = head.fields.get(b"traceparent")
            if given is not None:
                context = parse_traceparent(given.strip(b" \t"))
                if context is not None:
                    self._go_on(x, *context)
                    return
                head.remove(b"traceparent")
            if b"tracestate" in head.fields:
                head.remove(b"tracestate")
        trace_id = parent_id = ""
        sampled = None
        if self._b3:
            trace_id, parent_id, sampled = parse_b3(head.fields)
        if sampled is None:
            sampled = self._rng.random() < self._sample
        if not self._b3:
            if not sampled:
                # Nearly every new trace. Its ids are on the wire and nowhere else; a log line reads them there.
                if self._w3c:
                    ids = self._ids.take(48)
                    head.add(b"traceparent", f"00-{ids[:32]}-{ids[32:]}-00".encode())
                return
            if not self._w3c and self._record is None:
                return  # a trace that nobody would ever see
        take = self._ids.take
        x.trace = trace = Trace(trace_id or take(32), take(16), parent_id, SAMPLED if sampled else 0)
        self._write(x, trace)

    def _go_on(self, x: Request, trace_id: str, parent_id: str, flags: int) -> None:
        """The context that the request came with is a good one."""
        if flags & SAMPLED and self._record is not None:
            x.trace = trace = Trace(trace_id, self._ids.take(16), parent_id, flags)
            x.head.remove(b"traceparent")
            self._write(x, trace)
        elif self._b3:
            x.trace = trace = Trace(trace_id, parent_id, "", flags)
            self._write_b3(x, trace)

    def on_end(self, x: Request) -> None:
        trace = x.trace
        if trace is None or not trace.sampled or self._record is None:
            return
        now = time.time_ns()
        duration = x.listener.clock() - x.started
        attributes: dict[str, str | int] = {
            "http.request.method": x.method,
            "url.path": x.head.path.decode("latin-1"),
            "http.response.status_code": x.status,
            "sidecar.upstream": x.listener.name,
            "sidecar.attempts": x.attempts,
            "sidecar.request_id": x.request_id,
        }
        if x.tried or x.endpoint:
            attributes["server.address"] = (x.endpoint or x.tried[-1].endpoint).address
        if x.error:
            attributes["error.type"] = x.error
        self._record(
            SpanRecord(
                trace_id=trace.trace_id,
                span_id=trace.span_id,
                parent_id=trace.parent_id,
                name=f"{x.method} {x.listener.name}",
                kind=self._kind,
                start_ns=now - int(duration * 1e9),
                end_ns=now,
                attributes=attributes,
                ok=x.status < 500 and not x.error,
            )
        )

    def _write(self, x: Request, trace: Trace) -> None:
        if self._w3c:
            x.head.add(b"traceparent", traceparent(trace))
        if self._b3:
            self._write_b3(x, trace)

    def _write_b3(self, x: Request, trace: Trace) -> None:
        head = x.head
        single = b"b3" in head.fields
        for name in _B3_FIELDS:
            if name in head.fields:
                head.remove(name)
        for name, value in b3_fields(trace, single):
            head.add(name, value)
