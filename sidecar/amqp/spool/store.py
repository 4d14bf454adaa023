"""The spool as the event loop sees it: what is asked of it is queued for one thread, which owns the database.

Whatever has been queued by the time that thread is done with one transaction is in the next: so the cost of making it
durable is per batch, and the more there is, the larger the batches are. What comes of it returns to the loop in one
call per batch. The loop never waits, and what waits for the disk is bounded: beyond that, the spool is as good as full.

When the disk does not take a transaction, those who wanted to store messages are told so; removals are kept and tried
again every second, and until they are through, nothing is fetched, for it might have been delivered already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.dead_letters import DeadLetter
from sidecar.amqp.spool.jobs import Call, Fetch, FetchDone, Job, Outcome, Put, PutDone, State, Stop
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import Counts, NewDeadLetter, StreamName, Transaction
from sidecar.amqp.spool.writer import Writer
from sidecar.storage.errors import SpoolError
from sidecar.storage.files import Files
from sidecar.storage.worker import Worker

logger = logging.getLogger("sidecar.amqp.spool")

#: What may wait for the disk, bytes; and what a message takes in memory meanwhile beside its content, about.
QUEUE: Final = 6 << 20
COST: Final = 2 << 10
#: How long removals may wait for others, seconds.
LINGER: Final = 0.005
#: A full spool takes messages again below this part of its bound.
ROOM: Final = 0.9


class StreamCount:
    """What is in the spool of one virtual host and lane."""

    __slots__ = ("bytes", "count", "moved")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        #: When one was delivered (Unix time); 0: none was yet.
        self.moved = 0.0


class DeadLetters:
    """The dead letters of one spool. ``count``, ``bytes`` and ``reasons`` (how many of each) are as of the last
    transaction; ``dropped`` had to go for newer ones. Every method raises :class:`SpoolError` when the file cannot be
    used."""

    __slots__ = ("_call", "bytes", "count", "dropped", "reasons")

    def __init__(self, call: Callable[[Callable[[Database], Any], bool], asyncio.Future[Any]]) -> None:
        self._call = call
        self.count = 0
        self.bytes = 0
        self.dropped = 0
        self.reasons: dict[str, int] = {}

    async def list(self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None) -> list[DeadLetter]:
        """The next ones behind number ``after``, oldest first; of that reason and exchange, if given. Fewer than
        ``limit`` when they are large; none at all only at the end."""
        found: list[DeadLetter] = await self._call(lambda it: it.list_dead(limit, after, reason, exchange), False)
        return found

    async def get(self, number: int) -> DeadLetter | None:
        """One of them."""
        found: DeadLetter | None = await self._call(lambda it: it.get_dead(number), False)
        return found

    async def replay(self, numbers: Sequence[int]) -> int:
        """Put them behind the other messages of their streams, as if they had come now. How many were; damaged ones and
        numbers that there are not stay out."""
        messages: Sequence[SpooledMessage] = await self._call(lambda it: it.replay_dead(numbers), True)
        return len(messages)

    async def drop(self, numbers: Sequence[int]) -> int:
        """Forget them. How many there were."""
        gone: int = await self._call(lambda it: it.drop_dead(numbers), False)
        return gone

    async def expire(self, before: float) -> int:
        """Forget those that died before that Unix time. How many there were."""
        total = 0
        while True:
            gone: int = await self._call(lambda it: it.expire_dead(before), False)
            total += gone
            if not gone:
                return total


class Spool:
    """The spool of one upstream: ``<path>/<name>.db``, for at most ``max_bytes`` of messages (dead letters have the
    same bound for themselves; what a message counts as is its :attr:`~SpooledMessage.size`). All methods and attributes
    are the loop's."""

    def __init__(
        self,
        path: Path,
        name: str,
        max_bytes: int,
        loop: asyncio.AbstractEventLoop,
        clock_wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._clock = clock_wall
        self._database = Database(path, name, max_bytes, clock_wall)
        self._worker: Worker[Job] = Worker("spool", loop)
        self._closing = False
        #: What has been removed, and is not queued yet.
        self._later: Transaction | None = None
        #: Bytes of memory that wait for the disk, and how many messages they are.
        self._waiting = 0
        self.storing = 0
        #: Batches that do; how often storing one has failed; and those that were asked for before that was heard, and
        #: fail as well.
        self._asked = 0
        self._failures = 0
        self._failing = 0
        self.max_bytes = max_bytes
        #: Messages that are not removed yet, those on their way to the disk included; and their bytes.
        self.streams: dict[StreamName, StreamCount] = {}
        #: What was taken away from that, and had been before: messages that were lost, and have left from memory.
        self._twice: Counts = {}
        self.messages = 0
        self.bytes = 0
        #: When one has left, or the first one has come (Unix time).
        self._moved = clock_wall()
        #: Nothing is taken; ``on_room`` is called when that has changed.
        self.full = False
        self.on_room: Callable[[], None] | None = None
        #: Messages are there that nobody has put: dead letters that are to be sent again.
        self.on_revived: Callable[[], None] | None = None
        #: Why it does not work now; empty: it does.
        self.problem = ""
        #: Messages that were lost or set aside because the file was damaged, since the start.
        self.corrupt = 0
        self.dead_letters = DeadLetters(self._call)
        self._writer = Writer(self._database, self._worker, self._settle)

    @property
    def files(self) -> Files:
        """Where it is; for one process at a time."""
        return self._database.file.files

    def open(self) -> None:
        """Read what is there, and begin. Raises :class:`SpoolError`."""
        self._database.open()
        for name, (count, size) in self._database.counts.items():
            self._more(name, count, size)
        self._heard(State(self._database, "", {}))
        self._worker.start(self._writer.run)

    async def close(self) -> None:
        """Write what is queued, and end. Nothing may be asked of it any more."""
        self._closing = True
        if self._worker.running:
            future: asyncio.Future[None] = self._loop.create_future()
            self._ask(Stop(future))
            await future
            await self._worker.ended()
        else:
            self._database.close()  # it was claimed, and not opened

    def put(self, messages: list[SpooledMessage], done: PutDone, urgent: bool = False) -> bool:
        """Store messages, in this order, all or none. ``done`` is called with them when they are on the disk and have
        their ids, or with what went wrong; until then the list is the spool's. False: there is no room, nothing was
        taken and ``done`` is not called. ``urgent``: they have nowhere else to be, so it does not matter how much waits
        for the disk already."""
        size = 0
        for message in messages:
            size += message.size
        cost = size + COST * len(messages)
        crowded = self._waiting > 0 and self._waiting + cost > QUEUE and not urgent
        if self._closing or self.bytes + size > self.max_bytes or crowded:
            self.full = True
            return False
        self._waiting += cost
        self.storing += len(messages)
        if not self.messages:
            self._moved = self._clock()
        for message in messages:
            self._more((message.vhost, message.lane), 1, message.size)
        self._asked += 1
        self._ask(Put(messages, size, done, self._failures))
        return True

    def resize(self, max_bytes: int) -> None:
        """It may hold so much from now on. What is there stays, even if that is more."""
        self.max_bytes = self._database.max_dead = max_bytes
        self._room()

    def look(self) -> None:
        """Now and then: what was too much for it leaves room for less, though nothing has come or gone since."""
        self._room()

    @property
    def works(self) -> bool:
        """What is put now comes to be behind all that was not stored, as all of that has been heard of."""
        return not self.problem and not self._failing

    @property
    def still(self) -> float:
        """For how long nothing has left that was there, seconds."""
        return max(0.0, self._clock() - self._moved) if self.messages else 0.0

    def fetch(
        self, stream: StreamName, after: tuple[int, int] | None, limit: int, limit_bytes: int, done: FetchDone
    ) -> None:
        """The next messages of ``stream`` on the disk, by falling priority and then by id, that are behind ``after`` (a
        :attr:`~SpooledMessage.position`; None: from the beginning): at most ``limit``, and no more than ``limit_bytes``
        unless it is a single one. ``done`` is called once, after everything asked for before is on the disk."""
        self._ask(Fetch(stream, after, limit, limit_bytes, done))

    def remove(self, messages: list[SpooledMessage]) -> None:
        """They have been delivered: forget them with the next transaction."""
        now = self._moved = self._clock()
        for message in messages:
            name = (message.vhost, message.lane)
            stream = self.streams.get(name)
            if stream is not None:
                stream.moved = now
            self._less(name, 1, message.size)
        self._soon().removed += messages
        self._room()

    def tried(self, messages: list[SpooledMessage]) -> None:
        """The broker did not take them this time."""
        for message in messages:
            message.attempts += 1
        self._soon().tried += messages

    def dead(self, message: SpooledMessage, reason: str, code: int, text: str = "") -> None:
        """Nobody will send it any more: it becomes a dead letter, and is no message of its stream from now on. It need
        not have been in the spool (its id is 0 then). ``text`` is what the broker said, with that ``code``."""
        now = self._clock()
        self._soon().dead.append(NewDeadLetter(message, reason, code, now, text))
        if message.id:
            self._moved = now
            self._less((message.vhost, message.lane), 1, message.size)
        self._room()

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[Database], Any], messages: bool) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closing or not self._worker.running:
            future.set_exception(SpoolError("the spool is closed"))
        else:
            self._ask(Call(work, future, messages))
        return future

    def _soon(self) -> Transaction:
        """Changes that nobody waits for: what comes within a few milliseconds is one transaction."""
        later = self._later
        if later is None:
            later = self._later = Transaction()
            self._loop.call_later(LINGER, self._flush)
        return later

    def _flush(self) -> None:
        later = self._later
        if later is not None:
            self._later = None
            self._worker.submit(later)

    def _ask(self, job: Job) -> None:
        self._flush()
        self._worker.submit(job)

    def _more(self, name: StreamName, count: int, size: int) -> None:
        stream = self.streams.get(name)
        if stream is None:
            stream = self.streams[name] = StreamCount()
        stream.count += count
        stream.bytes += size
        self.messages += count
        self.bytes += size

    def _less(self, name: StreamName, count: int, size: int) -> None:
        stream = self.streams.get(name)
        if stream is None or count > stream.count:
            # Lost, and gone as well: that will be set right (Database.set_right).
            twice = self._twice.setdefault(name, [0, 0])
            there, there_size = (0, 0) if stream is None else (stream.count, stream.bytes)
            twice[0] += count - there
            twice[1] += size - there_size
        if stream is None:
            return
        if count >= stream.count:
            count = stream.count
            size = stream.bytes
            del self.streams[name]
        stream.count -= count
        stream.bytes -= size
        self.messages -= count
        self.bytes -= size

    def _there_after_all(self, name: StreamName, count: int, size: int) -> None:
        """So many are there that were not counted, unless they were not there to be taken away."""
        twice, twice_size = self._twice.pop(name, (0, 0))
        if count > twice:
            self._more(name, count - twice, max(0, size - twice_size))
        elif twice > count:
            self._twice[name] = [twice - count, twice_size - size]

    def _room(self) -> None:
        if self.full and self.bytes < self.max_bytes * ROOM and self._waiting < QUEUE // 2 and not self._closing:
            self.full = False
            if self.on_room is not None:
                self.on_room()

    def _settle(self, outcomes: list[Outcome]) -> None:
        """What came of a batch."""
        for outcome in outcomes:
            try:
                self._settle_one(outcome)
            except Exception:
                logger.exception("what was to be done after the spool's answer has failed")
        self._room()

    def _settle_one(self, outcome: Outcome) -> None:
        if isinstance(outcome, Put):
            self._waiting -= outcome.size + COST * len(outcome.messages)
            self.storing -= len(outcome.messages)
            self._asked -= 1
            self._failing = max(0, self._failing - 1)
            if outcome.error is not None:
                if outcome.failures > self._failures:
                    self._failures = outcome.failures
                    self._failing = self._asked
                for message in outcome.messages:
                    self._less((message.vhost, message.lane), 1, message.size)
            outcome.done(outcome.messages, outcome.error)
        elif isinstance(outcome, Fetch):
            for bad in outcome.bad:
                self._less(bad.stream, 1, bad.size)
            outcome.done(outcome.messages)
        elif isinstance(outcome, State):
            self._heard(outcome)
        elif isinstance(outcome, Call):
            if outcome.revives and outcome.result:
                for message in outcome.result:
                    self._more(message.stream, 1, message.size)
                if self.on_revived is not None:
                    self.on_revived()
            if outcome.future.done():
                return
            if outcome.error is not None:
                outcome.future.set_exception(outcome.error)
            else:
                outcome.future.set_result(outcome.result)
        elif not outcome.future.done():
            outcome.future.set_result(None)

    def _heard(self, state: State) -> None:
        self.problem = state.problem
        self.corrupt = state.corrupt
        dead = self.dead_letters
        dead.count = state.count
        dead.bytes = state.size
        dead.dropped = state.dropped
        dead.reasons = state.reasons
        for name, (count, size) in state.missing.items():
            if count > 0:
                self._less(name, count, size)
            else:
                self._there_after_all(name, -count, -size)
