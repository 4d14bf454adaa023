"""The stored requests of one route, and when each is sent.

In their order, so many at once. While the upstream cannot take them, one at a time finds out whether it can again, with
growing pauses; then there is one more at once with each that goes well, up to ``concurrency``: what has just come back
is not knocked over. One that may have reached the app and brought no answer waits by itself and lets others pass,
unless the order is to be kept.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.http_queue.record import Outcome, short
from sidecar.http_queue.settings import QueueSettings
from sidecar.resilience.backoff import Backoff, parse_retry_after

if TYPE_CHECKING:
    import asyncio

    from sidecar.exchange.delivery import Result
    from sidecar.http_queue.database import Database
    from sidecar.http_queue.queue import HttpQueue
    from sidecar.http_queue.record import Request
    from sidecar.storage.errors import SpoolError

logger = logging.getLogger("sidecar.queue")

#: Requests that are fetched at a time, and their bytes.
FETCH: Final = 16
FETCH_BYTES: Final = 4 << 20
#: Requests that wait by themselves, which takes their numbers only; with more, none is begun.
APART: Final = 10_000
#: The longest that an answer's Retry-After can make them wait, seconds; and the least time that an answer has to come.
LONGEST: Final = 300.0
#: How soon an outcome that could not be written down is tried again, seconds.
AGAIN: Final = 1.0
#: How soon is looked again for those whose time has come while there is no room for them, seconds.
SOON: Final = 0.05

#: The pauses of a lane, while its upstream cannot take requests; and those of one request: the first and the longest,
#: seconds.
PAUSES: Final = (0.25, 5.0)
DELAYS: Final = (1.0, 300.0)

#: Codes that say that the request did not reach the app.
UNDELIVERED: Final = frozenset(
    {"no_endpoints", "circuit_open", "overloaded", "draining", "connect_failed", "connect_timeout", "local_shortage"}
)
#: Codes that say that it never will, as it is.
HOPELESS: Final = frozenset({"bad_request", "body_too_large", "headers_too_large", "corrupt"})

#: Answers of an app that say that it did nothing, and may later.
BUSY: Final = frozenset({429, 503})


class Lane:
    """Sends what is stored under its name. ``settings`` and ``statuses`` (of answers after which a request is sent
    again) are the configuration's."""

    def __init__(self, queue: HttpQueue, name: str) -> None:
        self.name = name
        self.settings = QueueSettings()
        self.statuses: frozenset[int] = frozenset({502, 503, 504})
        #: What is on the disk and has no outcome.
        self.count = 0
        self.bytes = 0
        #: What is on its way there.
        self.coming = 0
        self.coming_bytes = 0
        self._queue = queue
        self._pause = Backoff(*PAUSES, queue.rng, jitter=False)
        self._delay = Backoff(*DELAYS, queue.rng, jitter=False)
        #: Fetched, and to be sent next; up to number ``_cursor`` all were fetched; behind it there may be ``_more``.
        self._ready: list[Request] = []
        self._cursor = 0
        self._more = True
        self._fetching = False
        #: (when, number, tries): those that wait by themselves. Those whose time has come are being fetched again.
        self._apart: list[tuple[float, int, int]] = []
        self._due: list[tuple[float, int, int]] = []
        #: What was asked of another file does not count any more.
        self._file = 0
        #: Number → under way, with what breaks it off; None: being written down.
        self.active: dict[int, Callable[[], None] | None] = {}
        #: So many in a row did not reach the upstream; so many at once may go now; and until when none does.
        self._failures = 0
        self._allowed = 1
        self._blocked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    @property
    def waiting(self) -> bool:
        """Something has been queued, and has no outcome yet."""
        return self.count > 0 or self.coming > 0

    # -- what happens to it --------------------------------------------------------------------------------------------

    def stored(self) -> None:
        """There is one more."""
        self._more = True
        self.pump()

    def forget(self) -> None:
        """Begin anew: the file is another one."""
        self._file += 1
        self._ready.clear()
        self._apart.clear()
        self._due.clear()
        self._fetching = False
        self._cursor = 0
        self._more = True

    def well(self) -> None:
        """Somebody else's request has gone well: no need to wait."""
        if self._blocked and self.count:
            self._blocked = 0.0
            self._queue.loop.call_soon(self.pump)

    def stop(self) -> None:
        """Send nothing more; what is under way is broken off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for cancel in list(self.active.values()):
            if cancel is not None:
                cancel()

    def pump(self) -> None:
        """Send what may go now."""
        queue = self._queue
        if queue.paused or not self.count:
            return
        now = queue.clock()
        if now < self._blocked:
            self._wake(self._blocked)
            return
        self._blocked = 0.0
        most = 1 if self.settings.in_order else min(self._allowed, self.settings.concurrency)
        while len(self.active) < most:
            if not self._ready or len(self._apart) >= APART:
                break
            self._send(self._ready.pop(0))
        if not self._fetching and (len(self._ready) < FETCH // 2 or len(self._apart) >= APART):
            self._fetch(now)
        if self._apart:
            self._wake(max(now + SOON, self._apart[0][0]))

    def _fetch(self, now: float) -> None:
        """More that may be sent: those whose time has come again, or the next ones."""
        apart = self._apart
        name = self.name
        file = self._file
        again = self._due
        while apart and apart[0][0] <= now and len(again) < FETCH:
            again.append(heapq.heappop(apart))
        if again:
            numbers = [number for _, number, _ in again]

            def work(database: Database) -> Any:
                return database.some(numbers, FETCH_BYTES)

        elif self._more:
            cursor = self._cursor

            def work(database: Database) -> Any:
                return database.fetch(name, cursor, FETCH, FETCH_BYTES)

        else:
            return

        def done(found: Any, error: SpoolError | None) -> None:
            if file != self._file:
                return
            self._fetching = False
            if error is not None:
                self._wake(self._queue.clock() + AGAIN)
            elif again:
                self._fetched_again(*found)
            else:
                self._fetched(*found)

        self._fetching = True
        self._queue.store.submit(work, done)

    def _fetched_again(self, requests: list[Request], left: list[int]) -> None:
        tries = {number: (due, number, tries) for due, number, tries in self._due}
        self._due.clear()
        for number in left:
            heapq.heappush(self._apart, tries[number])
        for request in requests:
            request.tries = tries[request.number][2]
        self._ready += requests
        self._ready.sort(key=_number)
        self.pump()

    def _fetched(self, requests: list[Request], more: bool) -> None:
        self._more = more
        # Behind a change of the file all is fetched anew, also what is here.
        known = {it.number for it in self._ready} | {it[1] for it in self._apart} if self._file else set()
        for request in requests:
            if request.number > self._cursor:
                self._cursor = request.number
                if request.number not in self.active and request.number not in known:
                    self._ready.append(request)
        self._ready.sort(key=_number)
        self.pump()

    # -- one request ---------------------------------------------------------------------------------------------------

    def _send(self, request: Request) -> None:
        queue = self._queue
        if request.expires <= queue.wall():
            self._finish(request, "expired", None)
            return
        request.tries += 1

        def done(result: Result) -> None:
            self._settle(request, result)

        settings = self.settings
        longest = max(LONGEST, settings.expires)
        self.active[request.number] = queue.deliver(request, settings.max_body, longest, done)

    def _settle(self, request: Request, result: Result) -> None:
        """A delivery is over."""
        queue = self._queue
        if queue.stopped:
            return
        del self.active[request.number]
        error = result.error
        status = result.status
        if error in HOPELESS and result.ours:
            self._finish(request, error, result)
        elif error in UNDELIVERED:
            queue.stats.outcomes["tried"] += 1
            self._again(request, result)
        elif error == "rate_limited":
            self._put_back(request)
            self._block(max(0.05, self._asked(result)))
        elif result.ours or status in self.statuses or status in BUSY:
            queue.stats.outcomes["tried"] += 1
            self._maybe_delivered(request, result)
        else:
            self._failures = 0
            self._allowed += self._allowed < self.settings.concurrency
            self._finish(request, "", result)
        self.pump()

    def _again(self, request: Request, result: Result) -> None:
        """It did not reach the app, and nor would the next one."""
        self._failures += 1
        self._allowed = 1
        self._put_back(request)
        self._block(max(self._pause.delay(self._failures), min(self._asked(result), PAUSES[1])))

    def _maybe_delivered(self, request: Request, result: Result) -> None:
        self._failures += 1
        self._allowed = 1
        if result.error or result.status not in BUSY:  # of the app, these say that nothing was done
            request.attempts += 1
            number = request.number
            self._queue.store.submit(lambda it: it.tried(number), _ignore)
        if self.settings.attempts and request.attempts >= self.settings.attempts:
            self._finish(request, result.error or str(result.status), result)
            return
        delay = max(self._delay.delay(request.tries), self._asked(result))
        if self.settings.in_order:
            self._put_back(request)
            self._block(delay)
            return
        heapq.heappush(self._apart, (self._queue.clock() + delay, request.number, request.tries))
        self._block(self._pause.delay(self._failures))

    def _put_back(self, request: Request) -> None:
        self._ready.append(request)
        self._ready.sort(key=_number)

    def _finish(self, request: Request, reason: str, result: Result | None) -> None:
        queue = self._queue
        now = queue.wall()
        outcome = Outcome(reason=reason, finished=now, forget=now + self.settings.keep)
        if result is not None and not result.ours:
            outcome.status = result.status
            outcome.head = result.head
            outcome.body = result.body
            outcome.whole = result.whole
        self.active[request.number] = None
        self._write(request, outcome)

    def _write(self, request: Request, outcome: Outcome) -> None:
        """Until it is on the disk, this place is not free: after a crash it would be sent again."""
        number = request.number

        def work(database: Database) -> Any:
            return database.finish(number, outcome)

        def done(gone: Any, error: SpoolError | None) -> None:
            queue = self._queue
            if error is not None:
                if not queue.closed:
                    queue.loop.call_later(AGAIN, self._write, request, outcome)
                return
            self.active.pop(number, None)
            queue.gone([gone] if gone is not None else [])
            if gone is not None:
                kind = "expired" if outcome.reason == "expired" else "failed" if outcome.reason else "delivered"
                queue.stats.outcomes[kind] += 1
                if outcome.reason:
                    logger.warning(
                        "a queued request has failed",
                        extra={"id": short(request.id), "reason": outcome.reason, "request_id": request.request_id},
                    )
            self.pump()

        self._queue.store.submit(work, done, outcome.size)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _asked(self, result: Result) -> float:
        if not result.retry_after:
            return 0.0
        return min(parse_retry_after(result.retry_after, self._queue.wall()) or 0.0, LONGEST)

    def _block(self, seconds: float) -> None:
        self._blocked = max(self._blocked, self._queue.clock() + seconds)

    def _wake(self, due: float) -> None:
        timer = self._timer
        if timer is not None:
            if self._timer_due <= due and not timer.cancelled():
                return
            timer.cancel()
        self._timer_due = due
        self._timer = self._queue.loop.call_later(max(0.0, due - self._queue.clock()), self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.pump()


def _number(request: Request) -> int:
    return request.number


def _ignore(_: object, __: object) -> None:
    """An attempt that is not counted is one more that may follow."""
