"""Trace context in messages: put in where there is none, and spans of what is sampled.

A message carries it in its ``headers`` property, as OpenTelemetry's instrumentations of AMQP clients do. A context that
is there already is never touched. Only the formats of ``tracing.propagate`` are written, and understood; where that is
empty, messages pass as they came, and a span that is recorded has a trace of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.amqp.wire.content import B3, TRACEPARENT, text_header
from sidecar.amqp.wire.tables import table_entry
from sidecar.core.ids import Ids
from sidecar.core.records import SpanRecord
from sidecar.core.trace import SAMPLED, Trace, parse_b3, parse_traceparent

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute

#: An entry of a field table up to its value: the name, the tag of a long string, and its length (55).
_ENTRY: Final = b"\x0btraceparentS\x00\x00\x00\x37"


class MessageTracing:
    """Trace context of the messages of one AMQP port. ``sample`` is the share of new traces that is recorded, 0 to 1;
    ``propagate`` has ``w3c``, ``b3``, both or neither. ``record`` takes finished spans; ``None``: there is no
    collector."""

    __slots__ = ("_b3", "_clock", "_ids", "_record", "_rng", "_sample", "_w3c", "contexts", "recording")

    def __init__(
        self,
        sample: float,
        propagate: tuple[str, ...],
        rng: random.Random,
        record: Callable[[SpanRecord], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._sample = sample
        self._w3c = "w3c" in propagate
        self._b3 = "b3" in propagate
        #: The headers that carry a context, as they stand in a table; none: nothing is put into messages.
        self.contexts: tuple[bytes, ...] = tuple(
            name for name, listed in ((TRACEPARENT, self._w3c), (B3, self._b3)) if listed
        )
        self._rng = rng
        self._ids = Ids(rng)
        self._record = record
        self._clock = clock
        #: Whether spans are wanted at all.
        self.recording = record is not None

    def resample(self, sample: float) -> None:
        """Record another share from now on."""
        self._sample = sample

    def begin(self) -> Trace | None:
        """For a message without a context: the trace that is to be recorded, or ``None`` for one that is not."""
        if self._rng.random() >= self._sample:
            return None
        return Trace(self._ids.take(32), self._ids.take(16), "", SAMPLED)

    def entries(self, trace: Trace | None) -> bytes:
        """The table entries that carry the context: of ``trace``, or of a new one that is not sampled."""
        if trace is None:
            ids = self._ids.take(48)
            if not self._b3:
                return _ENTRY + f"00-{ids[:32]}-{ids[32:]}-00".encode()
            trace = Trace(ids[:32], ids[32:], "", 0)
        flag = "1" if trace.sampled else "0"
        found = _ENTRY + f"00-{trace.trace_id}-{trace.span_id}-0{flag}".encode() if self._w3c else b""
        return found + table_entry("b3", f"{trace.trace_id}-{trace.span_id}-{flag}") if self._b3 else found

    def of(self, data: bytes, start: int, end: int) -> Trace | None:
        """A span below the context that came in a header frame, a message's; ``None`` when there is no usable one, when
        it is not sampled, or when nobody wants spans. Raises :class:`AmqpError` when the properties do not fit."""
        if self._record is None:
            return None
        if self._w3c:
            given = text_header(data, start, end, TRACEPARENT)
            context = parse_traceparent(given) if given is not None else None
            if context is not None:
                return Trace(context[0], self._ids.take(16), context[1], context[2]) if context[2] & SAMPLED else None
        if self._b3:
            given = text_header(data, start, end, B3)
            if given is not None:
                trace_id, parent_id, sampled = parse_b3({b"b3": given})
                if trace_id and sampled:
                    return Trace(trace_id, self._ids.take(16), parent_id, SAMPLED)
        return None

    def published(self, trace: Trace, route: PublishRoute, since: float, ok: bool) -> None:
        """A message has left, and its answer is there if one was asked for."""
        self._span(
            trace,
            f"publish {route.exchange or 'amq.default'}",
            "producer",
            since,
            ok,
            {
                "messaging.destination.name": route.exchange or "amq.default",
                "messaging.rabbitmq.destination.routing_key": route.routing_key,
                "messaging.operation.type": "send",
            },
        )

    def consumed(self, trace: Trace, consumer: str, since: float, ok: bool) -> None:
        """A delivery was settled (``ok``: taken, not sent back)."""
        self._span(
            trace,
            "process",
            "consumer",
            since,
            ok,
            {"messaging.consumer.group.name": consumer, "messaging.operation.type": "process"},
        )

    def _span(
        self, trace: Trace, name: str, kind: str, since: float, ok: bool, attributes: dict[str, str | int]
    ) -> None:
        if self._record is None:
            return
        now = time.time_ns()
        attributes["messaging.system"] = "rabbitmq"
        self._record(
            SpanRecord(
                trace_id=trace.trace_id,
                span_id=trace.span_id,
                parent_id=trace.parent_id,
                name=name,
                kind=kind,
                start_ns=now - int((self._clock() - since) * 1e9),
                end_ns=now,
                attributes=attributes,
                ok=ok,
            )
        )
