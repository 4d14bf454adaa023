"""Trace context in messages: put in where there is none, and spans of what is sampled, and of publishes that failed.

A message carries it in its ``headers`` property, as OpenTelemetry's instrumentations of AMQP clients do. A context that
is there already is never touched. Only the formats of ``tracing.propagate`` are written, and understood; where that is
empty, messages pass as they came, and a span that is recorded has a trace of its own.

All spans of a message have the trace that is in it: the publish, its way through the spool, what a consumer does with
it. The publish is a ``producer`` span if its own context is in the message, else a ``client`` one, a child of the
context's like the others. Consumers link to that, too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.content import B3, TRACEPARENT, properties, text_header
from sidecar.amqp.wire.runs import IDS, add_traces, whole_publishes
from sidecar.amqp.wire.tables import table_entry
from sidecar.core import conventions as names
from sidecar.core.ids import Ids
from sidecar.core.records import SpanRecord
from sidecar.core.trace import SAMPLED, Trace, parse_b3, parse_traceparent
from sidecar.resilience.sampling import Sampling

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute

#: Random bytes that are drawn at once.
_POOL: Final = 170 * IDS
#: An entry of a field table up to its value: the name, the tag of a long string, and its length (55).
_ENTRY: Final = b"\x0btraceparentS\x00\x00\x00\x37"


class MessageTrace(Trace):
    """Where a message stands in its trace. ``ours``: this span's context is the one in the message."""

    __slots__ = ("conversation_id", "message_id", "ours")

    def __init__(self, trace_id: str, span_id: str, parent_id: str, flags: int, ours: bool) -> None:
        Trace.__init__(self, trace_id, span_id, parent_id, flags)
        self.ours = ours
        self.message_id = ""
        self.conversation_id = ""

    def describe(self, data: bytes, start: int, end: int) -> None:
        """Remember what the message's header frame says of it, if it can be read: the broker judges that."""
        try:
            found = properties(data, start, end)
        except AmqpError:
            return
        self.message_id = found.message_id or ""
        self.conversation_id = found.correlation_id or ""


#: What is remembered of a publish: its trace; or only the ids of one of ours that is not sampled, 48 digits, as nearly
#: all are: a trace is made of them when the publish fails.
PublishTrace: TypeAlias = "MessageTrace | str"


class MessageTracing:
    """Trace context of the messages of one AMQP port, that of ``upstream``. ``propagate`` has ``w3c``, ``b3``, both or
    neither. ``record`` takes finished spans; ``None``: there is no collector."""

    __slots__ = (
        "_at", "_b3", "_clock", "_ids", "_pool", "_record", "_rng", "_sampling", "_upstream", "_w3c", "_whole",
        "contexts", "recording",
    )  # fmt: skip

    def __init__(
        self,
        upstream: str,
        propagate: tuple[str, ...],
        rng: random.Random,
        sampling: Sampling,
        record: Callable[[SpanRecord], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._w3c = "w3c" in propagate
        self._b3 = "b3" in propagate
        #: The headers that carry a context, as they stand in a table; none: nothing is put into messages.
        self.contexts: tuple[bytes, ...] = tuple(
            name for name, listed in ((TRACEPARENT, self._w3c), (B3, self._b3)) if listed
        )
        self._ids = Ids(rng)
        self._rng = rng
        #: Random bytes, those before ``_at`` used.
        self._pool = b""
        self._at = 0
        self._sampling = sampling
        self._record = record
        self._clock = clock
        #: Whether spans are wanted at all.
        self.recording = record is not None
        #: What puts traces into a run that is all of one reading; ``None``: nobody, or more than that is to be done.
        self._whole = whole_publishes if record is None and self.contexts == (TRACEPARENT,) else None

    def begin(self) -> str:
        """The ids of a new trace and its first span, 48 digits, for a message without a context."""
        at = self._random(IDS)
        self._at = at + IDS
        return self._pool[at : at + IDS].hex()

    def unused(self) -> None:
        """What :meth:`begin` has just given was not needed."""
        self._at -= IDS

    def _random(self, size: int) -> int:
        """Where in the pool so many random bytes are that were not used."""
        if self._at + size > len(self._pool):
            drawn = [self._rng.getrandbits(8 * _POOL).to_bytes(_POOL, "big") for _ in range(size // _POOL + 1)]
            self._pool = self._pool[self._at :] + b"".join(drawn)
            self._at = 0
        return self._at

    def entries(self, ids: str) -> bytes:
        """The table entries that carry the context of those ids."""
        flag = "1" if self._sampling.sampled(ids[:32]) else "0"
        found = _ENTRY + f"00-{ids[:32]}-{ids[32:]}-0{flag}".encode() if self._w3c else b""
        return found + table_entry("b3", f"{ids[:32]}-{ids[32:]}-{flag}") if self._b3 else found

    def add_to_run(self, data: bytes, start: int, end: int, count: int, limit: int) -> bytes | None:
        """A run of so many publishes with a new trace in each header (no longer than ``limit``), of which no span will
        be wanted; as it is, where nothing is put into messages. ``None``: each is to be looked at by itself. Say so if
        it passes (:meth:`run_added`), or the next ones get the same ids."""
        if self._record is not None or self._b3 or add_traces is None:
            return None
        if not self._w3c:
            return data[start:end]
        at = self._random(count * IDS)
        return add_traces(data, start, end, limit, self._pool, at, self._sampling.least)

    def whole_run(self, data: bytes, limit: int, known: bytes) -> tuple[int, int, bytes, bytes] | None:
        """The same if ``data`` is nothing but a run: how many publishes, their channel, exchange and routing key as in
        ``basic.publish`` (``known`` itself, if it is equal), and they with their traces. ``None``: it is not, or is to
        be looked at in another way."""
        whole = self._whole
        return None if whole is None else whole(data, limit, self._pool, self._at, self._sampling.least, known)

    def run_added(self, count: int) -> None:
        """That run passes."""
        self._at += count * IDS

    def begun(self, ids: str) -> PublishTrace | None:
        """The trace of a message that has got those ids; ``None`` when no span of it will be wanted."""
        if self._record is None:
            return None
        if not self._sampling.sampled(ids[:32]):
            return ids if self._sampling.errors else None
        return MessageTrace(ids[:32], ids[32:], "", SAMPLED, True)

    def of(self, data: bytes, start: int, end: int) -> MessageTrace | None:
        """The span of a publish below the context that came in its header frame; ``None`` when there is no usable one,
        or no span of it will be wanted. Raises :class:`AmqpError` when the properties do not fit."""
        trace = self._below(data, start, end)
        return trace if trace is not None and (trace.sampled or self._sampling.errors) else None

    def received(self, data: bytes, start: int, end: int) -> MessageTrace | None:
        """The span of a delivery, in the same way; ``None`` also when it is not sampled."""
        trace = self._below(data, start, end)
        return trace if trace is not None and trace.sampled else None

    def _below(self, data: bytes, start: int, end: int) -> MessageTrace | None:
        if self._record is None:
            return None
        if self._w3c:
            given = text_header(data, start, end, TRACEPARENT)
            context = parse_traceparent(given) if given is not None else None
            if context is not None:
                return MessageTrace(context[0], self._ids.take(16), context[1], context[2], False)
        if self._b3:
            given = text_header(data, start, end, B3)
            if given is not None:
                trace_id, parent_id, sampled = parse_b3({b"b3": given})
                if trace_id:
                    return MessageTrace(trace_id, self._ids.take(16), parent_id, SAMPLED if sampled else 0, False)
        return None

    def published(self, trace: PublishTrace, route: PublishRoute, since: float, error: str = "") -> None:
        """A message has left, or is in the spool, and its answer is there if one was asked for. ``error``: it has not;
        in one word why."""
        if isinstance(trace, str):
            if not error:
                return
            trace = MessageTrace(trace[:32], trace[32:], "", 0, True)
        if not self._wanted(trace, error):
            return
        kind = "producer" if trace.ours and self.contexts else "client"
        start = self._now() - int((self._clock() - since) * 1e9)
        attributes = self._attributes("publish", "send", route.exchange, route.routing_key)
        self._span(trace, "publish", route.exchange, kind, start, error, attributes)

    def replayed(
        self, header: bytes, exchange: str, routing_key: str, at: float, attempts: int, error: str = ""
    ) -> None:
        """A message has left the spool, in which it was since ``at`` (Unix time); ``error``: as a dead letter, and why.
        ``header`` is its content header's payload."""
        if self._record is None:
            return
        frame = b"\x02\x00\x00" + len(header).to_bytes(4, "big") + header + b"\xce"
        try:
            trace = self._below(frame, 0, len(frame))
        except AmqpError:
            return
        if trace is None or not self._wanted(trace, error):
            return
        trace.describe(frame, 0, len(frame))
        attributes = self._attributes("publish", "send", exchange, routing_key)
        attributes[names.SPOOLED] = True
        attributes[names.ATTEMPTS] = attempts
        self._span(trace, "publish", exchange, "client", int(at * 1e9), error, attributes)

    def returned(self, exchange: str, routing_key: str, code: int, data: bytes, start: int, end: int) -> None:
        """The broker gives a message back that no queue wants; its header frame."""
        trace = self._below(data, start, end)
        if trace is not None and self._wanted(trace, "returned"):
            trace.describe(data, start, end)
            attributes = self._attributes("return", "settle", exchange, routing_key)
            attributes[names.REPLY_CODE] = code
            self._span(trace, "return", exchange, "client", self._now(), "returned", attributes)

    def consumed(
        self, trace: MessageTrace, consumer: str, exchange: str, routing_key: str, since: float, taken: bool
    ) -> None:
        """A delivery was settled (``taken``: not sent back)."""
        start = self._now() - int((self._clock() - since) * 1e9)
        attributes = self._attributes("process", "process", exchange, routing_key)
        if consumer:
            attributes[names.CONSUMER] = consumer
        self._span(trace, "process", exchange, "consumer", start, "" if taken else "rejected", attributes)

    def _wanted(self, trace: Trace, error: str) -> bool:
        return trace.sampled or (error != "" and self._sampling.always(True, 0.0))

    def _now(self) -> int:
        return time.time_ns()

    def _attributes(self, name: str, kind: str, exchange: str, routing_key: str) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {
            names.MESSAGING_SYSTEM: names.RABBITMQ,
            names.OPERATION_NAME: name,
            names.OPERATION_TYPE: kind,
            names.UPSTREAM: self._upstream,
            names.SERVER_ADDRESS: self._upstream,
        }
        # The default exchange has no name: its routing keys are queues.
        attributes[names.DESTINATION_NAME] = ":".join([it for it in (exchange, routing_key) if it])
        if routing_key:
            attributes[names.ROUTING_KEY] = routing_key
        return attributes

    def _span(
        self,
        trace: MessageTrace,
        operation: str,
        exchange: str,
        kind: str,
        start_ns: int,
        error: str,
        attributes: dict[str, str | int],
    ) -> None:
        if self._record is None:
            return
        if trace.message_id:
            attributes[names.MESSAGE_ID] = trace.message_id
        if trace.conversation_id:
            attributes[names.CONVERSATION_ID] = trace.conversation_id
        if error:
            attributes[names.ERROR_TYPE] = error
        links = ((trace.trace_id, trace.parent_id),) if kind == "consumer" else ()
        self._record(
            SpanRecord(
                trace_id=trace.trace_id,
                span_id=trace.span_id,
                parent_id=trace.parent_id,
                name=f"{operation} {exchange or 'amq.default'}",  # routing keys may be as many as there are messages
                kind=kind,
                start_ns=start_ns,
                end_ns=self._now(),
                attributes=attributes,
                ok=not error,
                links=links,
            )
        )
