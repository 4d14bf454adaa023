"""The queue of one HTTP listener's requests."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.stats import QueueStats
from sidecar.exchange.listener import ListenerError
from sidecar.http_queue.database import Database
from sidecar.http_queue.lane import Lane
from sidecar.http_queue.outcomes import Outcomes
from sidecar.http_queue.record import file_name
from sidecar.http_queue.settings import QueueSettings
from sidecar.http_queue.store import Store

if TYPE_CHECKING:
    from sidecar.exchange.delivery import Deliver
    from sidecar.exchange.listener import Listener
    from sidecar.http_queue.database import Gone
    from sidecar.http_queue.record import Found, Request
    from sidecar.storage.errors import SpoolError
    from sidecar.storage.files import Files

logger = logging.getLogger("sidecar.queue")

#: How often is looked for what has expired, seconds.
SWEEP: Final = 2.0

#: The most of bodies that are received at once in order to be stored, bytes.
RECEIVING: Final = 64 << 20

Put = Callable[["Found | None", "SpoolError | None"], None]


class HttpQueue:
    """``lanes`` by name. ``deliver`` sends a request through the listener's chains. ``wall`` is Unix time, ``clock``
    the loop's idea of it."""

    def __init__(
        self,
        listener: Listener,
        deliver: Deliver,
        path: str,
        rng: random.Random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.listener = listener
        self.deliver = deliver
        self.loop: asyncio.AbstractEventLoop = listener.loop
        self.clock: Callable[[], float] = listener.loop.time
        self.wall = wall
        self.rng = rng
        self.path = path
        self.stats = listener.stats.queue = QueueStats()
        self._database = Database(Path(path), file_name(listener.name, listener.stats.direction), 0, wall)
        self.store = Store(self._database, listener.loop)
        self.store.on_recount = self._recount
        self.outcomes = Outcomes(self.store)
        self.lanes: dict[str, Lane] = {}
        #: Bodies of requests that are to be stored and have not come whole, bytes.
        self.receiving = 0
        #: Nothing more is sent; what is under way is not heard of any more either; nothing can be stored.
        self.paused = True
        self.stopped = False
        self.closed = False
        #: Nothing more can be stored; what is, goes on.
        self.refusing = False
        #: Clients have named keys for something that is here.
        self.keyed = False
        self._keys = 0
        self._keep = 3600.0
        #: Lanes that the configuration has.
        self._configured: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None

    def configure(self, settings: Mapping[str, tuple[QueueSettings, Collection[int]]]) -> None:
        """By lane: how it is to be done, and the statuses after which a request is sent again. Lanes that are not
        named go on as they were."""
        for name, (queue, statuses) in settings.items():
            lane = self.lane(name)
            lane.settings = queue
            lane.statuses = frozenset(statuses)
        orphans = [self.lanes[name] for name in self._configured - settings.keys() if self.lanes[name].waiting]
        if orphans:
            logger.warning(
                "a queue was taken out of the configuration of %s; what it has acknowledged is delivered all the same",
                self.listener.name,
                extra={"requests": sum(lane.count + lane.coming for lane in orphans)},
            )
        self._configured = frozenset(settings)
        if settings:
            self._keep = max(queue.keep for queue, _ in settings.values())
            self._database.max_outcomes = max(queue.max_bytes for queue, _ in settings.values())

    def lane(self, name: str) -> Lane:
        """The lane of that name."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(self, name)
        return lane

    @property
    def files(self) -> Files:
        """Where it is; for one process at a time."""
        return self._database.file.files

    def open(self) -> None:
        """Read what is there, and begin to send it. Raises :class:`ListenerError`."""
        from sidecar.storage.errors import SpoolError

        try:
            counts, self.keyed = self.store.open()
        except SpoolError as error:
            raise ListenerError(f"{self.listener.name}: requests cannot be queued: {error.text}") from error
        self._counted(counts)
        if self.stats.requests:
            logger.info(
                "stored requests are waiting for %s",
                self.listener.name,
                extra={"requests": self.stats.requests, "bytes": self.stats.bytes},
            )
        self.paused = False
        for lane in self.lanes.values():
            self.loop.call_soon(lane.pump)
        self._timer = self.loop.call_later(SWEEP, self._sweep)

    def pause(self) -> None:
        """Send nothing more: what waits is sent after the next start. What is under way may finish."""
        self.paused = True
        if self._timer is not None:
            self._timer.cancel()

    def stop(self) -> None:
        """Break off what is under way."""
        self.pause()
        self.stopped = True
        for lane in self.lanes.values():
            lane.stop()

    def refuse(self) -> None:
        """Store nothing more: the listener is about to go for good."""
        self.refusing = True

    async def close(self) -> None:
        """Write what is to be written, and end."""
        self.stop()
        self.closed = True
        await self.store.close()
        if not self.waiting:
            return
        fields = {"requests": self.waiting, "file": str(self._database.file.files.base)}
        if self._configured:
            logger.info("stored requests wait for the next start of %s", self.listener.name, extra=fields)
        else:
            logger.warning(
                "stored requests are left behind: they are delivered when %s is started with a queue there again",
                self.listener.name,
                extra=fields,
            )

    # -- requests ------------------------------------------------------------------------------------------------------

    def room(self, lane: Lane, size: int) -> bool:
        """Whether one more of that size may be stored."""
        return (
            not (self.closed or self.refusing)
            and lane.bytes + lane.coming_bytes + size <= lane.settings.max_bytes
            and not self.store.busy(size)
        )

    def receive(self, size: int) -> bool:
        """Count so many more bytes (or fewer) of bodies that are being received; whether there is room for them."""
        self.receiving += size
        return self.receiving <= RECEIVING

    def put(self, lane: Lane, request: Request, done: Put) -> None:
        """Store it. ``done`` is called when it is on the disk, or with the one that has the same key, or with what went
        wrong."""
        size = request.size
        lane.coming += 1
        lane.coming_bytes += size
        if request.digest:
            self.keyed = True
            self._keys += 1

        def stored(found: Any, error: SpoolError | None) -> None:
            lane.coming -= 1
            lane.coming_bytes -= size
            if error is None and found is None:
                lane.count += 1
                lane.bytes += size
                self._total()
                lane.stored()
            done(found, error)

        self.store.submit(lambda it: it.put(request), stored, size)

    def find(self, id: str, done: Put) -> None:
        """What is known of a request; of its answer, neither head nor body."""
        self.store.submit(lambda it: it.find(id), done)

    @property
    def waiting(self) -> int:
        """Requests that were acknowledged, or are about to be, and have no outcome."""
        return sum(lane.count + lane.coming for lane in self.lanes.values())

    def delivering(self, number: int) -> bool:
        """Whether it is under way."""
        return any(number in lane.active for lane in self.lanes.values())

    def gone(self, gone: list[Gone]) -> None:
        """These wait no more."""
        for name, size in gone:
            lane = self.lane(name)
            lane.count -= 1
            lane.bytes -= size
        self._total()

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        busy = {number for lane in self.lanes.values() for number in lane.active}
        now = self.wall()
        keep = self._keep
        keys = self._keys

        def swept(found: Any, error: SpoolError | None) -> None:
            if self.paused:
                return
            self._timer = self.loop.call_later(SWEEP, self._sweep)
            if error is not None:
                return
            gone, keyed = found
            if self._keys == keys:
                self.keyed = keyed
            if gone:
                self.stats.outcomes["expired"] += len(gone)
                logger.warning("queued requests have expired", extra={"requests": len(gone)})
                self.gone(gone)

        self.store.submit(lambda it: it.sweep(now, busy, keep), swept)

    def _recount(self) -> None:
        """The file is another one: what is in it counts."""

        def done(counts: Any, error: SpoolError | None) -> None:
            if error is None:
                for lane in self.lanes.values():
                    lane.count = lane.bytes = 0
                    lane.forget()
                self._counted(counts)
                for lane in self.lanes.values():
                    lane.pump()

        self.store.submit(lambda it: it.lanes(), done)

    def _counted(self, counts: Mapping[str, tuple[int, int]]) -> None:
        for name, (count, size) in counts.items():
            lane = self.lane(name)
            lane.count = count
            lane.bytes = size
        self._total()

    def _total(self) -> None:
        self.stats.requests = sum(lane.count for lane in self.lanes.values())
        self.stats.bytes = sum(lane.bytes for lane in self.lanes.values())
