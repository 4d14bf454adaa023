"""What the data plane tells about a finished exchange or message, as plain tuples.

Making one is all that the hot path does; whoever takes it (:mod:`sidecar.telemetry`) formats and sends it elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import inf
from typing import Any, Final, NamedTuple
from zlib import crc32

#: The longest text in a span, characters.
LONGEST_TEXT: Final = 1024

#: The modes of the access log, and from which status on an exchange has a line whatever else is true of it.
MODES: Final = {"all": 0, "errors": 500, "off": sys.maxsize}


class Try(NamedTuple):
    """One attempt of a finished exchange. ``failure`` is its kind (:mod:`sidecar.exchange.attempt`), ``cause`` a word
    of :mod:`sidecar.net.causes`; ``status`` and ``peer_error`` are those of its answer; ``at`` is when it began,
    seconds after the exchange, ``seconds`` what it took."""

    endpoint: str
    at: float
    failure: str
    cause: str
    status: int
    peer_error: str
    seconds: float


class AccessRecord(NamedTuple):
    """A finished exchange. ``time`` is Unix time, ``duration`` seconds; ``target`` is without its query, which may
    hold secrets; ``status`` 0: the client left before an answer. ``cause`` is a word of
    :mod:`sidecar.net.causes`, ``peer_error`` the code of a sidecar that answered in place of its app. ``span_id``:
    that of our own span.

    ``began``, ``sent`` and ``head`` are seconds from its beginning to that of its last attempt, to that one's
    connection, and to the head of the answer; below 0: it did not come to that. ``kept``: the connection was there
    already. ``tries``: all attempts, in order, if there was more than one, or if it failed.
    ``reason`` says why a request was refused that did not become an exchange. ``fallback`` is the number of the step
    that answered in place of the upstream. ``dialled`` is where a redirected connection was going."""

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
    span_id: str = ""
    began: float = -1.0
    sent: float = -1.0
    head: float = -1.0
    kept: bool = False
    tries: tuple[Try, ...] = ()
    reason: str = ""
    fallback: int = 0
    dialled: str = ""


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
    """Which exchanges get a line: the one place that knows. See :meth:`set_mode`; any thread may call that."""

    def __init__(
        self, mode: str, record: Callable[[AccessRecord], None], sample: float = 0.0, slow: float = 0.0
    ) -> None:
        #: Queue an :class:`AccessRecord`; never blocks.
        self.record = record
        #: Told of every exchange, while there is somebody who watches them.
        self.tap: Callable[[AccessRecord], None] | None = None
        #: Of exchanges without an id: how many of them there were, in shares of a line.
        self._owed = 0.0
        self.set_mode(mode, sample, slow)

    def set_mode(self, mode: str, sample: float = 0.0, slow: float = 0.0) -> None:
        """From now on: ``all``; ``off``; or ``errors``, which are 5xx and whatever the sidecar answered itself or cut.
        With ``errors`` also a share of the others, from 0 to 1, and those whose answer began only after ``slow``
        seconds (0: none for that). Raises :class:`ValueError`."""
        if mode not in MODES:
            raise ValueError(f"no such mode: {mode[:40]!r}; there are {', '.join(MODES)}")
        self.mode, self.sample, self.slow = mode, sample, slow
        #: Hot path: lines are for statuses from this one on.
        self._from = MODES[mode]
        self._errors = mode != "off"
        #: Whether :meth:`picks` has to be asked about those that went well.
        self.choosy = mode == "errors" and bool(sample or slow)
        #: Whether one with status 200 can get a line.
        self.of_good = self._from <= 200 or self.choosy
        self._below = sample * 2**32
        self._slow = slow or inf

    def enabled_for(self, status: int, error: str | None) -> bool:
        """Whether an exchange that ended so gets a line."""
        return status >= self._from or (self._errors and bool(error))

    def picks(self, request_id: str, seconds: float) -> bool:
        """Whether one that went well gets a line all the same: it was slow, or is in the sample. That goes by its id,
        so that a request has lines at all of its hops or at none, and by counting where there is no id."""
        if seconds >= self._slow:
            return True
        if request_id:
            return crc32(request_id.encode("utf-8", "replace")) < self._below
        self._owed += self.sample
        if self._owed < 1.0:
            return False
        self._owed -= 1.0
        return True


class Stories:
    """Which exchanges are remembered for those who ask why: all that the sidecar answered itself, that failed, were
    tried again, or had no answer for ``slow`` seconds; and the ``sample`` (a share) of the rest. Settings may change at
    any time."""

    def __init__(
        self, put: Callable[[dict[str, Any]], None], enabled: bool = True, sample: float = 0.01, slow: float = 1.0
    ) -> None:
        #: Remember a story, which is plain JSON.
        self.put = put
        self.enabled = enabled
        self.sample = sample
        self.slow = slow

    def use(self, enabled: bool, sample: float, slow: float) -> None:
        """Go by other settings from now on."""
        self.enabled = enabled
        self.sample = sample
        self.slow = slow
