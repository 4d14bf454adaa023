"""What the data plane tells about a finished exchange or message, as plain tuples.

Making one is all that the hot path does; whoever takes it (:mod:`sidecar.telemetry`) formats and sends it elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, NamedTuple

#: The longest text in a span, characters.
LONGEST_TEXT: Final = 1024


class AccessRecord(NamedTuple):
    """A finished exchange. ``time`` is Unix time, ``duration`` seconds; ``target`` is without its query, which may
    hold secrets; ``status`` 0: the client left before an answer. ``cause`` is a word of
    :mod:`sidecar.net.causes`, ``peer_error`` the code of a sidecar that answered in place of its app."""

    time: float
    direction: str
    upstream: str
    method: str
    target: str
    status: int
    error: str | None
    duration: float
    bytes_in: int
    bytes_out: int
    endpoint: str | None
    attempts: int
    client: str
    request_id: str
    trace_id: str | None
    cause: str = ""
    peer_error: str = ""


class SpanRecord(NamedTuple):
    """One exchange, try or message as a span. Ids are lower-case hexadecimal, of 32 and 16 digits; ``parent_id`` empty:
    none. ``kind`` is ``server``, ``client``, ``internal``, ``producer`` or ``consumer``; times are Unix time in
    nanoseconds; ``links`` are (trace id, span id). Texts are no longer than :data:`LONGEST_TEXT`: thousands of spans
    may wait."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int]
    ok: bool
    links: tuple[tuple[str, str], ...] = ()


class AccessLog:
    """Which exchanges get a line: ``all``, ``errors`` (5xx, and whatever the sidecar answered itself) or ``off``."""

    def __init__(self, mode: str, record: Callable[[AccessRecord], None]) -> None:
        #: Hot path: lines are for statuses from this one on.
        self._from = {"all": 0, "errors": 500, "off": sys.maxsize}[mode]
        self._errors = mode != "off"
        #: Queue an :class:`AccessRecord`; never blocks.
        self.record = record

    def enabled_for(self, status: int, error: str | None) -> bool:
        """Whether an exchange that ended so gets a line."""
        return status >= self._from or (self._errors and bool(error))
