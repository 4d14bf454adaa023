"""``GET /tap``: exchanges as they end, for those who watch. No bodies, no header fields, no query strings.

While nobody listens, an exchange is not asked for anything. A listener has a bounded queue; what does not fit into it
is counted, and told in the stream.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import orjson

from sidecar.core.operations import REFUSED, Answer, Call, Contribution, Operation, Query, Stream
from sidecar.core.records import AccessLog, AccessRecord
from sidecar.telemetry.access_lines import access_fields

#: Listeners at once; exchanges that wait for one of them; characters of a target that are kept.
MOST: Final = 5
QUEUE: Final = 1000
MAX_TARGET: Final = 1024
#: Seconds between two looks into a queue; between two signs of life; and that a listener may take to read.
PERIOD: Final = 0.1
ALIVE: Final = 5.0
READ_SECONDS: Final = 5.0

_STATUS: Final = re.compile(r"[1-5]xx|\d{1,3}")
#: Of a line of the log, what is not about the exchange.
_LEFT_OUT: Final = ("logger", "msg", "service", "level")


class Listener:
    """One who listens to the exchanges of ``upstream`` (empty: of all listeners), with that ``status`` (``503``,
    ``5xx``, empty: any) and that ``error`` (empty: any)."""

    __slots__ = ("_error", "_status", "_upstream", "dropped", "waiting")

    def __init__(self, upstream: str, status: str, error: str) -> None:
        self._upstream = upstream
        self._status = status
        self._error = error
        self.waiting: deque[AccessRecord] = deque()
        #: Exchanges that did not fit, since that was last told.
        self.dropped = 0

    def offer(self, record: AccessRecord) -> None:
        """Queue it, if it is one of those."""
        if self._upstream and record.upstream != self._upstream:
            return
        if self._error and record.error != self._error:
            return
        status = self._status
        if status and status != (f"{record.status // 100}xx" if status.endswith("xx") else str(record.status)):
            return
        if len(self.waiting) >= QUEUE:
            self.dropped += 1
        else:
            self.waiting.append(record)


class Tap:
    """The handler. ``log`` is told of every exchange; ``names`` are those of listeners; ``over``: the sidecar has
    stopped. ``sleep`` waits so many seconds, ``clock`` gives them."""

    def __init__(
        self,
        log: AccessLog,
        service: str,
        names: Callable[[], Sequence[str]],
        over: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._log = log
        self._service = service
        self._names = names
        self._over = over
        self._clock = clock
        self._sleep = sleep
        self._listeners: list[Listener] = []

    def contribution(self) -> Contribution:
        """Return the operation."""
        operation = Operation(
            "GET", "/tap", "Exchanges as they end, a JSON object on a line each, until the client has seen enough",
            self.tap,
            {200: "lines; {\"dropped\": N} where N did not fit", 400: "not said so that it can be done",
             503: f"{MOST} listen already", **REFUSED},
            pages=("application/x-ndjson",), private=True,
            query=(Query("upstream", "only to this one; the service's own name: inbound"),
                   Query("status", "only with this status: 503, or 5xx"),
                   Query("error", "only with this code of the sidecar's own"),
                   Query("limit", "end after so many", "integer")),
        )  # fmt: skip
        return Contribution((operation,), {})

    async def tap(self, call: Call) -> Answer | Stream:
        """Answer ``GET /tap``."""
        asked = dict(call.query)
        upstream, status, limit = asked.get("upstream", ""), asked.get("status", ""), asked.get("limit", "")
        known = self._names()
        if upstream and upstream not in known:
            return _bad(f"no such upstream: {upstream[:80]!r}; there are: {', '.join(known) or 'none'}")
        if status and not _STATUS.fullmatch(status):
            return _bad("status is one such as 503, or a class such as 5xx")
        if limit and not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0 and len(limit) <= 9):
            return _bad("limit is a number from 1 on")
        if len(self._listeners) >= MOST:
            return Answer({"error": "overloaded", "message": f"{MOST} listen already"}, 503)
        listener = Listener(upstream, status, asked.get("error", ""))
        self._listeners.append(listener)
        self._log.tap = self._offer
        pieces = self._pieces(listener, int(limit) if limit else 0)
        return Stream(pieces, "application/x-ndjson", lambda: self._left(listener), READ_SECONDS, live=True)

    def _left(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        if not self._listeners:
            self._log.tap = None

    def _offer(self, record: AccessRecord) -> None:
        if len(record.target) > MAX_TARGET:
            record = record._replace(target=f"{record.target[:MAX_TARGET]}…")
        for listener in self._listeners:
            listener.offer(record)

    async def _pieces(self, listener: Listener, limit: int) -> AsyncIterator[bytes]:
        service, waiting = self._service, listener.waiting
        told, spoke = 0, self._clock()
        while not self._over():
            lines: list[bytes] = []
            while waiting and len(lines) < QUEUE and not (limit and told >= limit):
                lines.append(_line(waiting.popleft(), service))
                told += 1
            if listener.dropped:
                lines.append(orjson.dumps({"dropped": listener.dropped}) + b"\n")
                listener.dropped = 0
            now = self._clock()
            if lines or now - spoke >= ALIVE:
                spoke = now
                yield b"".join(lines) or b"\n"
            else:
                yield b""
            if limit and told >= limit:
                return
            await self._sleep(PERIOD)


def _line(record: AccessRecord, service: str) -> bytes:
    fields = access_fields(record, service)
    for name in _LEFT_OUT:
        fields.pop(name, None)
    return orjson.dumps(fields, default=str) + b"\n"


def _bad(message: str) -> Answer:
    return Answer({"error": "bad_request", "message": message}, 400)
