"""Trace context in messages: put in where there is none, and spans of what is sampled.

A message carries it in its ``headers`` property, as OpenTelemetry's instrumentations of AMQP clients do. A context that
is there already is never touched.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.amqp.tables import table_entry
from sidecar.config.model import Tracing as Config
from sidecar.proxy.ids import Ids
from sidecar.proxy.trace import SAMPLED, Trace, parse_traceparent
from sidecar.telemetry.spans import SpanRecord

if TYPE_CHECKING:
    from sidecar.amqp.policy import Route

#: An entry of a field table up to its value: the name, the tag of a long string, and its length (55).
_ENTRY: Final = b"\x0btraceparentS\x00\x00\x00\x37"


class MessageTracing:
    """One per AMQP port. ``record`` takes finished spans; ``None``: there is no collector."""

    __slots__ = ("_b3", "_clock", "_ids", "_record", "_rng", "_sample", "recording")

    def __init__(
        self,
        config: Config,
        rng: random.Random,
        record: Callable[[SpanRecord], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._sample = config.sample
        self._b3 = "b3" in config.propagate
        self._rng = rng
        self._ids = Ids(rng)
        self._record = record
        self._clock = clock
        #: Whether spans are wanted at all.
        self.recording = record is not None

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
        flag = "01" if trace.sampled else "00"
        found = _ENTRY + f"00-{trace.trace_id}-{trace.span_id}-{flag}".encode()
        if self._b3:
            found += table_entry("b3", f"{trace.trace_id}-{trace.span_id}-{'1' if trace.sampled else '0'}")
        return found

    def follow(self, traceparent: bytes) -> Trace | None:
        """A span below the context that a message came with; ``None`` when that is not sampled, or not valid."""
        context = parse_traceparent(traceparent)
        if context is None or not context[2] & SAMPLED:
            return None
        return Trace(context[0], self._ids.take(16), context[1], context[2])

    def published(self, trace: Trace, route: Route, since: float, ok: bool) -> None:
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
                trace_id=int(trace.trace_id, 16),
                span_id=int(trace.span_id, 16),
                parent_id=int(trace.parent_id or "0", 16),
                name=name,
                kind=kind,
                start_ns=now - int((self._clock() - since) * 1e9),
                end_ns=now,
                attributes=attributes,
                ok=ok,
            )
        )
