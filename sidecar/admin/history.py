"""``GET /history``: what has passed in the last quarter of an hour, so that a page that is opened has the past.

Every few seconds, what each listener has counted since is put away, as one column of a heat map. That costs a few
microseconds for each listener, whether anybody looks or not, and traffic nothing.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from sidecar.admin.commands import Commands
from sidecar.core import json_schema
from sidecar.core.json_schema import COUNT, NUMBER, TEXT, record
from sidecar.core.operations import Answer, Call, Contribution, NotKnown, Operation, Query
from sidecar.core.stats import BUCKETS, ListenerStats, counted

#: Seconds of one column, and how many there are of a listener: 15 minutes. About 300 bytes each.
PERIOD: Final = 10.0
COLUMNS: Final = 90
#: Listeners that have a past; further ones have none.
MOST: Final = 200
#: Beside the names of upstreams: all that comes in, and all HTTP that goes out.
INBOUND: Final = "inbound"
OUTBOUND: Final = "outbound"

_COLUMN: Final = record(
    at=NUMBER | {"description": "its end, Unix time"}, requests=COUNT, errors=COUNT, counts=json_schema.array(COUNT)
)
_SCHEMA: Final = record(
    of=TEXT,
    period_s=NUMBER,
    bounds_ms=json_schema.array(NUMBER) | {"description": "upper bounds of counts, which has one more: what is above"},
    columns=json_schema.array(_COLUMN) | {"description": "the oldest first"},
)


class Column(NamedTuple):
    """What passed a listener within one period: until ``at``, Unix time."""

    at: float
    requests: int
    errors: int
    counts: array[int]


class Past:
    """The columns of one listener."""

    def __init__(self, stats: ListenerStats) -> None:
        self.stats = stats
        self.columns: deque[Column] = deque(maxlen=COLUMNS)
        self.since: float | None = None
        self._requests, self._errors, self._counts = counted(stats)

    def recent(self, at: float) -> tuple[float, int, int, list[int]]:
        """What passed in the last 10 to 20 seconds: how many those are, requests, errors, counts of buckets."""
        requests, errors, counts = counted(self.stats)
        requests, errors = requests - self._requests, errors - self._errors
        counts = [n - m for n, m in zip(counts, self._counts, strict=True)]
        seconds = at - self.since if self.since is not None else 0.0
        if self.columns:
            last = self.columns[-1]
            seconds, requests, errors = seconds + PERIOD, requests + last.requests, errors + last.errors
            counts = [n + m for n, m in zip(counts, last.counts, strict=True)]
        return max(seconds, 0.0), max(requests, 0), max(errors, 0), [max(n, 0) for n in counts]

    def look(self, at: float) -> None:
        """A period is over."""
        requests, errors, counts = counted(self.stats)
        new = array("L", [max(0, n - m) for n, m in zip(counts, self._counts, strict=True)])
        self.since = at
        self.columns.append(Column(at, max(0, requests - self._requests), max(0, errors - self._errors), new))
        self._requests, self._errors, self._counts = requests, errors, counts


class History:
    """Looks every :data:`PERIOD` between :meth:`start` and :meth:`stop`. ``wall`` is Unix time."""

    def __init__(self, commands: Commands, wall: Callable[[], float] = time.time) -> None:
        self._commands = commands
        self._wall = wall
        self._inbound: Past | None = None
        self._upstreams: dict[str, Past] = {}
        self._timer: asyncio.TimerHandle | None = None

    def contribution(self) -> Contribution:
        """Return the operation, with the shape of its answer."""
        operation = Operation(
            "GET", "/history", "Requests, errors and latencies of the last 15 minutes, in columns of 10 seconds",
            self.history, {200: "the columns", 404: "no such upstream"}, "History",
            query=(Query("of", f"{INBOUND}, {OUTBOUND} (all HTTP upstreams), or an upstream's name; by default what "
                               "comes in, if anything does"),),
        )  # fmt: skip
        return Contribution((operation,), {"History": _SCHEMA})

    def start(self) -> None:
        """Begin to look."""
        self.look()
        self._again(asyncio.get_running_loop())

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        def due() -> None:
            self._again(loop)
            self.look()

        self._timer = loop.call_later(PERIOD, due)

    def look(self) -> None:
        """Put away what has passed since the last look. A listener that is new is looked at for the first time."""
        at = self._wall()
        inbound = self._commands.inbound()
        self._inbound = None if inbound is None else _looked(self._inbound, inbound, at)
        names = self._commands.upstreams()[:MOST]
        stats = self._commands.upstream_stats
        self._upstreams = {name: _looked(self._upstreams.get(name), stats(name), at) for name in names}

    def recent(self, upstream: str | None) -> tuple[float, int, int, list[int]] | None:
        """What has just passed an upstream, or came in (None), as :meth:`Past.recent`; None: it is not looked at."""
        past = self._inbound if upstream is None else self._upstreams.get(upstream)
        return None if past is None else past.recent(self._wall())

    async def history(self, call: Call) -> Answer:
        """Answer ``GET /history``."""
        asked = dict(call.query).get("of", "") or (OUTBOUND if self._inbound is None else INBOUND)
        return Answer(
            {
                "of": asked,
                "period_s": PERIOD,
                "bounds_ms": [round(bound * 1000, 1) for bound in BUCKETS],
                "columns": [
                    {"at": round(it.at, 1), "requests": it.requests, "errors": it.errors, "counts": it.counts.tolist()}
                    for it in self._columns(asked)
                ],
            }
        )

    def _columns(self, of: str) -> Sequence[Column]:
        if of in self._upstreams:
            return tuple(self._upstreams[of].columns)
        if of == INBOUND:
            return tuple(self._inbound.columns) if self._inbound is not None else ()
        if of == OUTBOUND:
            return _added(it.columns for it in self._upstreams.values() if it.stats.protocol == "http")
        raise NotKnown(f"no such upstream: {of[:80]!r}")


def _looked(before: Past | None, stats: ListenerStats, at: float) -> Past:
    if before is None or before.stats is not stats:
        new = Past(stats)  # new, or another upstream of that name
        new.since = at
        return new
    before.look(at)
    return before


def _added(listeners: Iterable[Sequence[Column]]) -> Sequence[Column]:
    """The columns of several listeners as those of one: they were looked at together."""
    found: dict[float, Column] = {}
    for columns in listeners:
        for it in columns:
            before = found.get(it.at)
            if before is not None:
                counts = array("L", map(int.__add__, before.counts, it.counts))
                it = Column(it.at, before.requests + it.requests, before.errors + it.errors, counts)
            found[it.at] = it
    return [found[at] for at in sorted(found)]
