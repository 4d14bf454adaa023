"""Chooses who finds runs of messages, and puts traces into them: C (``_runs.c``) where it was built, else nobody.

A run is what stands side by side on one channel and is alike: whole publishes to one exchange with one routing key and
without a trace context, whole deliveries to one consumer with consecutive tags, acks of consecutive tags. It passes, or
is counted, as one. Where it cannot be, or nobody finds it, each frame is looked at (:mod:`sidecar.amqp.relay.forward`).
A run that is all of one reading is found, and has its traces, by a single call.
``SIDECAR_SCANNER`` is for tests and for comparing: ``python`` does without C, ``c`` insists on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core.build import PYTHON, C, wanted

#: Kinds of runs, beside the types of frames; as in ``runs.h``. A run says above these eight bits how many it has.
PUBLISHES: Final = 16
DELIVERIES: Final = 17
ACKS: Final = 18
KIND: Final = 0xFF
COUNT: Final = 8
#: Bytes of one ``basic.ack``.
ACK_SIZE: Final = 21
#: Random bytes that a trace takes.
IDS: Final = 24

#: (data, start, end, largest frame, whether runs are wanted) → (kind, channel, start, end) of each frame or run, up to
#: what is no whole frame.
cut: Callable[[bytes, int, int, int, bool], list[tuple[int, int, int, int]]] | None = None
#: (data, start, end, largest frame, random bytes, where those begin, what ids are sampled from) → the run of publishes
#: there, a trace in each header; None: one would be too long.
add_traces: Callable[[bytes, int, int, int, bytes, int, bytes], bytes | None] | None = None
#: (data, largest frame, random bytes, where those begin, what ids are sampled from, a name) → how many publishes, their
#: channel, exchange and routing key as in ``basic.publish`` (that very name, if it is equal), and all of them with a
#: trace in each header; that is the data itself, if each has one (``traceparent``). None: the data is not one run of
#: publishes, only some have a trace, one would be too long with it, or there are too few random bytes.
whole_publishes: Callable[[bytes, int, bytes, int, bytes, bytes], tuple[int, int, bytes, bytes] | None] | None = None
#: (data, largest frame, a tag) → the channel, the first and the last number of what is acknowledged or delivered, and
#: the tag of the consumer that it is delivered to (that very tag, if it is equal; None for acks). Acks with
#: ``multiple`` among them have 0 for the first: all up to the last. None: the data is neither one run of deliveries nor
#: acks of one channel that come to that.
whole_numbers: Callable[[bytes, int, bytes], tuple[int, int, int, bytes | None] | None] | None = None

_wanted = wanted()
if _wanted != PYTHON:
    try:
        from sidecar.amqp.wire._runs import add_traces as _add_traces
        from sidecar.amqp.wire._runs import cut as _cut
        from sidecar.amqp.wire._runs import whole_numbers as _whole_numbers
        from sidecar.amqp.wire._runs import whole_publishes as _whole_publishes
    except ImportError:  # it was not built, or from an older source
        if _wanted == C:
            raise
    else:
        cut = _cut
        add_traces = _add_traces
        whole_publishes = _whole_publishes
        whole_numbers = _whole_numbers


def frames(data: bytes, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """(type, channel, start, end) of the frames of a run."""
    assert cut is not None
    return cut(data, start, end, end - start, False)
