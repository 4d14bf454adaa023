"""Records what was decided about each request, so that other settings can be rehearsed against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final
from zlib import crc32

from sidecar.core.decisions import (
    DETAIL,
    DETAILED,
    GIVEN_UP,
    KEPT,
    LAST,
    MOST_PATH,
    REPLAYABLE,
    SEGMENT,
    TRIED,
    UPGRADE,
    Decisions,
    Segment,
    Shape,
)
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE, RESET, TIMEOUT
from sidecar.exchange.filter import Filter
from sidecar.exchange.routes import glob

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.message import RequestHead
    from sidecar.exchange.request import Request

#: How tries fail, by number; and the number of a connection that did not come in time.
FAILURES: Final[tuple[str, ...]] = ("", CONNECT, TIMEOUT, RESET, RACE, MALFORMED)
LATE: Final = len(FAILURES)
_NUMBER: Final = {kind: number for number, kind in enumerate(FAILURES)}
#: Characters of a method that are kept; names of a segment, at most, as their numbers have 16 bits; tries of a request.
MOST_METHOD: Final = 32
_MOST_NAMES: Final = 60_000
MOST_TRIES: Final = 20
#: A question mark. To look for a byte is quick; for bytes, the interpreter first makes an exception.
_QUERY: Final = 0x3F


class Record(Filter):
    """Behind those that count. What it writes is what the exchange has anyway; of one that simply went well four
    numbers."""

    name: ClassVar[str] = "decisions"

    def __init__(self, decisions: Decisions, listener: str) -> None:
        self._decisions = decisions
        self._listener = listener
        self._watched: tuple[bytes, ...] = ()
        self._conditions: tuple[tuple[bytes, str], ...] = ()
        self._globs: list[tuple[bytes, Callable[[bytes], object]]] = []

    def watch(self, names: Sequence[str], conditions: Sequence[tuple[str, str]]) -> None:
        """Remember of these fields whether they are equal, and which of these conditions (name, glob) they meet."""
        self._conditions = tuple([(name.lower().encode(), value) for name, value in conditions])
        self._watched = tuple(sorted({name.lower().encode() for name in names} | {it[0] for it in self._conditions}))
        self._globs = [(name, glob(value)) for name, value in self._conditions]

    def on_end(self, x: Request) -> None:
        segment = self._decisions.segment
        if segment is None:
            return
        now = x.ended
        number = segment.used
        if number >= SEGMENT or now > segment.until or len(segment.names) > _MOST_NAMES:
            segment = self._decisions.turn(now)
            number = 0
        attempt = x.attempt
        path = x.head.target
        if _QUERY in path:
            path = path.partition(b"?")[0]
        if (
            attempt is not None
            and attempt.kept
            and not x.head_at
            and x.story is None
            and not x.tried
            and not x.error
            and x.replayable
            and not attempt.peer_error
            and attempt.retried < 0
        ):
            values = self._values(x.head) if self._watched else ()
            key = (x.chain, x.method, path, attempt.endpoint, x.status, values)
            kind = segment.kinds.get(key, -1)
            if kind < 0:
                kind = self._new_kind(segment, x, attempt, path, values)
        else:
            kind = DETAILED
            self._detail(segment, x, path, now)
        segment.began[number] = x.started
        segment.seconds[number] = now - x.started
        segment.kind_of[number] = kind
        segment.clients[number] = x.client_ip
        segment.used = number + 1
        segment.newest = now

    def _new_kind(
        self, segment: Segment, x: Request, attempt: Attempt, path: bytes, values: tuple[int | None, ...]
    ) -> int:
        shape = self._shape(segment, x, path, values)
        endpoint = segment.name(attempt.endpoint, attempt.endpoint.address)
        # A key has no more of a path than what is kept: a longer one is looked up in vain, and numbered each time.
        method = x.method[:MOST_METHOD]
        key = (x.chain, method, path[:MOST_PATH], attempt.endpoint, x.status, values)
        return segment.kind(key, shape, endpoint, x.status)

    def _detail(self, segment: Segment, x: Request, path: bytes, now: float) -> None:
        shape = self._shape(segment, x, path, self._values(x.head))
        for it in x.tried[:MOST_TRIES]:
            self._try(segment, x, it, shape)
        last = x.attempt
        flags = LAST
        if x.replayable:
            flags |= REPLAYABLE
        if x.head.upgrade:
            flags |= UPGRADE
        began = sent = answered = -1.0
        endpoint = peer = status = 0
        if last is not None:
            flags |= TRIED
            began = last.began - x.started
            if last.sent:
                sent = last.sent - x.started
            if last.kept:
                flags |= KEPT
            if last.retried >= 0:
                flags |= GIVEN_UP
            status = last.status
            if status:
                answered = (x.head_at or now) - x.started
            endpoint = segment.name(last.endpoint, last.endpoint.address)
            peer = segment.name(last.peer_error, last.peer_error)
        error = segment.name(x.error, x.error)
        segment.details += DETAIL.pack(
            now - x.started, began, sent, answered, shape, endpoint, error, peer, x.status, status, 0,
            min(x.attempts, 255), flags,
        )  # fmt: skip

    def _try(self, segment: Segment, x: Request, it: Attempt, shape: int) -> None:
        """Record a try that another one followed, or that failed."""
        failure = LATE if it.failure == CONNECT and it.cause == "timeout" else _NUMBER.get(it.failure, 0)
        began = it.began - x.started
        flags = TRIED
        if it.kept:
            flags |= KEPT
        if it.retried >= 0:
            flags |= GIVEN_UP
        segment.details += DETAIL.pack(
            it.took, began, it.sent - x.started if it.sent else -1.0, began + it.took, shape,
            segment.name(it.endpoint, it.endpoint.address), 0, segment.name(it.peer_error, it.peer_error), 0,
            it.status, failure, 0, flags,
        )  # fmt: skip

    def _shape(self, segment: Segment, x: Request, path: bytes, values: tuple[int | None, ...]) -> int:
        """The number of a request's shape."""
        method, head, route = x.method[:MOST_METHOD], x.head, x.chain.number
        if len(path) > MOST_PATH:
            path = path[: MOST_PATH + 1]  # so that a cut can be seen
        key = (self._listener, method, path, route, values)
        number = segment.numbers.get(key, -1)
        if number >= 0:
            return number
        matched: list[bool] = []
        for name, meets in self._globs:
            value = head.get(name)
            matched.append(value is not None and bool(meets(value)))
        shape = Shape(
            self._listener, method, path, route, self._watched, values, self._conditions, tuple(matched)
        )  # fmt: skip
        return segment.shape(key, shape)

    def _values(self, head: RequestHead) -> tuple[int | None, ...]:
        salt = self._decisions.salt
        found: list[int | None] = []
        for name in self._watched:
            value = head.get(name)
            found.append(None if value is None else crc32(value, salt))
        return tuple(found)
