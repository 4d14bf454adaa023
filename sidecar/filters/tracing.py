"""Carries the trace context through, begins a trace where none came, and records spans of what is sampled, and of what
failed or was slow."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.core.ids import IdLines, Ids
from sidecar.core.records import SpanRecord
from sidecar.core.trace import SAMPLED, Trace, b3_fields, parse_b3, parse_traceparent, traceparent
from sidecar.exchange.filter import Filter
from sidecar.exchange.spans import spans
from sidecar.resilience.sampling import Sampling

if TYPE_CHECKING:
    from sidecar.exchange.request import Request

_B3_FIELDS: Final = (b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags")
#: The field of a new trace, and where its ids stand there.
_BEGIN: Final = b"traceparent: 00-"
_TRACE_ID: Final = len(_BEGIN)
_SPAN_ID: Final = _TRACE_ID + 33


class Tracing(Filter):
    """Early in the chain, so that whatever happens later has a trace id.

    A context that we add no span to (it is not sampled, or no collector is configured) passes byte for byte: its parent
    stays the caller, or traces would have holes in them. A malformed one is replaced. ``tracestate`` without a valid
    ``traceparent`` belongs to no trace and goes (W3C Trace Context §3.3). ``baggage`` is not ours to touch.

    Only the formats of ``tracing.propagate`` are understood and written: the fields of another are end-to-end ones like
    any. Where there is none of them, a span that is recorded has a trace of its own, and log lines name that one, or
    else the one that the client sent.

    Outbound, each try is a span below that of the exchange, and the request names its try as its parent.
    """

    name: ClassVar[str] = "tracing"

    def __init__(
        self,
        propagate: tuple[str, ...],
        inbound: bool,
        rng: random.Random,
        sampling: Sampling,
        record: Callable[[SpanRecord], None] | None,
    ) -> None:
        self._w3c = "w3c" in propagate
        self._b3 = "b3" in propagate
        self._inbound = inbound
        self._ids = Ids(rng)
        #: Fields of new traces that are not sampled, of which there are no others than in these.
        self._lines = IdLines(rng, _BEGIN + b"*" * 32 + b"-" + b"*" * 16 + b"-00\r\n")
        self._sampling = sampling
        self._record = record

    def uses(self, hook: str) -> bool:
        return hook != "on_end" or self._record is not None

    def on_request(self, x: Request) -> None:
        head = x.head
        if self._w3c:
            flags = head.trace_flags
            if flags >= 0 and not self._b3 and (self._record is None or not flags & SAMPLED):
                return  # nearly every trace that comes: it goes on as it is
            given = head.fields.get(b"traceparent")
            if given is not None:
                context = parse_traceparent(given.strip(b" \t"))
                if context is not None:
                    self._go_on(x, *context)
                    return
                head.remove(b"traceparent")
            if b"tracestate" in head.fields:
                head.remove(b"tracestate")
        sampling = self._sampling
        if self._w3c and not self._b3:
            line = self._lines.take()
            if sampling.share:
                trace_id = line[_TRACE_ID : _TRACE_ID + 32].decode()
                if sampling.sampled(trace_id):
                    self._begin(x, Trace(trace_id, line[_SPAN_ID : _SPAN_ID + 16].decode(), "", SAMPLED))
                    return
            # Nearly every new trace. Its ids are on the wire and nowhere else; a log line reads them there.
            head.add_line(line)
            return
        trace_id = parent_id = ""
        sampled = None
        if self._b3:
            trace_id, parent_id, sampled = parse_b3(head.fields)
        if not trace_id:
            trace_id = self._ids.take(32)
        span_id = self._ids.take(16)
        if sampled is None:
            sampled = sampling.sampled(trace_id)
        if not self._b3 and (not sampled or self._record is None):
            return  # a trace that nobody would ever see
        self._begin(x, Trace(trace_id, span_id, parent_id, SAMPLED if sampled else 0))

    def _go_on(self, x: Request, trace_id: str, parent_id: str, flags: int) -> None:
        """The context that the request came with is a good one."""
        if flags & SAMPLED and self._record is not None:
            x.head.remove(b"traceparent")
            self._begin(x, Trace(trace_id, self._ids.take(16), parent_id, flags))
        elif self._b3:
            x.trace = trace = Trace(trace_id, parent_id, "", flags)
            self._write_b3(x, trace)

    def _begin(self, x: Request, trace: Trace) -> None:
        """This is the exchange's span. What is sent names it as its parent, or the try that sends it."""
        x.trace = trace
        if trace.sampled and self._record is not None and not self._inbound:
            self._write_try(x, trace)
        else:
            self._write(x, trace)

    def on_again(self, x: Request) -> None:
        trace = x.trace
        if trace is not None and trace.tries:
            head = x.head
            if self._w3c:
                head.remove(b"traceparent")
            if self._b3:
                single = head.get(b"b3")
                for name in _B3_FIELDS:
                    head.remove(name)
                if single is not None:
                    head.fields[b"b3"] = single  # its form is kept
            self._write_try(x, trace)

    def _write_try(self, x: Request, trace: Trace) -> None:
        """The next try is a span of its own."""
        id = self._ids.take(16)
        trace.tries += (id,)
        self._write(x, trace.below(id))

    def on_end(self, x: Request) -> None:
        record = self._record
        if record is None:
            return
        trace = x.trace
        if trace is None or not trace.sampled:
            sampling = self._sampling
            # What went through a tunnel is not late.
            took = 0.0 if x.status == 101 else (x.head_at or x.ended) - x.started
            bad = _failed(x)
            if (not bad and took < sampling.slow) or not sampling.always(bad, took):
                return
            trace = self._place(x)
        for span in spans(x, trace, self._inbound):
            record(span)

    def _place(self, x: Request) -> Trace:
        """Where an exchange that is not sampled stands in its trace. What was sent says it, and no flag is turned: its
        span has the id that is on the wire, or is one more child of the caller's where that is the parent there."""
        take = self._ids.take
        trace = x.trace
        if self._w3c:
            given = x.head.fields.get(b"traceparent")
            context = parse_traceparent((given or x.head.get(b"traceparent") or b"").strip(b" \t"))
            if context is not None and given is not None:
                trace = Trace(context[0], take(16), context[1], context[2])
            elif context is not None and trace is None:
                trace = Trace(context[0], context[1], "", context[2])
        if trace is None:
            trace = Trace(take(32), take(16), "", 0)
        if not self._inbound:
            trace.tries = tuple([take(16) for _ in range(x.attempts + len(x.tried))])
        return trace

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


def _failed(x: Request) -> bool:
    """Whether an exchange is one that is always recorded: it failed, or was tried again. What a client did wrong is no
    failure, and neither is that it left."""
    status = x.status
    return status >= 500 or (x.attempts > 1 and x.in_vain) or (x.error != "" and not 400 <= status < 500)
