"""The database as the event loop sees it: jobs for one thread, which owns it.

Whatever has been asked for by the time that thread is done with one transaction is the next one, so the cost of making
it durable is per batch. The loop never waits, and what waits for the disk is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from sidecar.core.events import EVENTS
from sidecar.http_queue.database import Counts, Database
from sidecar.storage.errors import DiskFullError, InDoubtError, SpoolError
from sidecar.storage.faults import FAILURES, damaged, describe, disk_full, refused
from sidecar.storage.worker import Worker

logger = logging.getLogger("sidecar.queue")

#: Jobs of one transaction, and their bytes.
BATCH: Final = 256
BATCH_BYTES: Final = 2 << 20
#: What may wait for the disk, bytes.
WAITING: Final = 32 << 20
#: How often what did not work is tried again, seconds.
RETRY: Final = 1.0
#: The log is copied into the database after so long without work, seconds, or when so many bytes were written. It then
#: begins anew in the space that it has, so that outcomes can be written on a full disk, too.
IDLE: Final = 0.5
BEHIND: Final = 1 << 20
#: What a transaction writes to the log beside what is stored, bytes, about: eight pages.
OVERHEAD: Final = 32768

#: What is wrong when nothing can be set aside.
FULL: Final = describe(DiskFullError())

Done = Callable[[Any, SpoolError | None], None]


class Job:
    """Something to be done with the database, and whom to tell. ``size``: bytes that it holds in memory meanwhile."""

    __slots__ = ("done", "error", "result", "size", "work")

    def __init__(self, work: Callable[[Database], Any], done: Done, size: int) -> None:
        self.work = work
        self.done = done
        self.size = size
        self.result: Any = None
        self.error: SpoolError | None = None


class Store:
    """Runs jobs, in the order in which they were asked for."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop
        self._worker: Worker[Job] = Worker("queue", loop)
        self._stop = False
        self._waiting = 0
        #: The file is another one than before, or may have lost something: what is in it has to be counted again.
        self.on_recount: Callable[[], None] | None = None
        #: Why it does not work now; empty: it does.
        self.problem = ""
        # The thread's own.
        self._next_try = 0.0
        self._behind = 0

    def open(self) -> tuple[Counts, bool]:
        """Read what is there, and begin; what is waiting, and whether keys have been named. Raises
        :class:`SpoolError`."""
        self._database.open()
        self._say("" if self._database.file.reserve.held else FULL)
        try:
            found = self._database.lanes(), self._database.keyed()
        except FAILURES as error:
            self._database.close()
            raise SpoolError(f"{self._database.file.files.base}: {describe(error)}") from error
        self._worker.start(self._run)
        return found

    @property
    def secret(self) -> bytes:
        """See :attr:`Database.secret`."""
        return self._database.secret

    @property
    def corrupt(self) -> int:
        """See :attr:`Database.corrupt`."""
        return self._database.corrupt

    def busy(self, size: int) -> bool:
        """Whether so many bytes more would be too many for the disk's queue."""
        return bool(self._waiting) and self._waiting + size > WAITING

    def submit(self, work: Callable[[Database], Any], done: Done, size: int = 0) -> None:
        """Have it done. ``done`` is called on the loop, with its result when all of it is on the disk, or with what
        went wrong."""
        job = Job(work, done, size)
        if self._stop or not self._worker.running:
            self._loop.call_soon(done, None, SpoolError("the queue is closed"))
            return
        self._waiting += size
        self._worker.submit(job)

    async def close(self) -> None:
        """Do what was asked for, and end."""
        if not self._worker.running:
            self._database.close()  # it was claimed, and not opened
            return
        if self._stop:
            return
        self._stop = True
        self._worker.wake()
        await self._worker.ended()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        jobs = self._worker.jobs
        while jobs or not self._stop:
            self._worker.wait(IDLE if self._behind or self.problem else None)
            batch: list[Job] = []
            size = 0
            while jobs and len(batch) < BATCH and size < BATCH_BYTES:
                batch.append(jobs.popleft())
                size += batch[-1].size
            try:
                if batch:
                    self._do(batch)
                    self._behind += size + OVERHEAD
                if self._behind and (not batch or self._behind > BEHIND) and self._ready():
                    self._behind = 0
                    self._database.checkpoint()
                elif not batch and self.problem and self._ready():
                    self._probe()
            except Exception as error:
                self._trouble(error)
            if batch:
                self._worker.post(self._settle, batch)
        with contextlib.suppress(*FAILURES):
            if self._database.file.usable:
                self._database.checkpoint()
        self._database.close()

    def _do(self, batch: list[Job], repaired: bool = False) -> None:
        """In one transaction; if that fails, each in its own, so that one cannot harm the others. A damaged file is
        made anew, once."""
        if not self._ready():
            self._refuse(batch)
            return
        try:
            self._commit(batch)
        except Exception as error:
            # A log that could not be synced may be whole all the same; one that did not fit is not.
            doubt = self._database.file.committed or (self._database.file.committing and not disk_full(error))
            if damaged(error) and not repaired:
                self._trouble(error)
                self._do(batch, repaired=True)
                return
            if len(batch) == 1 or not self._goes_on(error):
                if not self._refusal(error):
                    self._trouble(error)
                for job in batch:
                    job.error = _error(error, doubt)
                return
            for job in batch:
                self._do([job])

    def _commit(self, batch: list[Job]) -> None:
        database = self._database
        with database.transaction():
            for job in batch:
                job.result = job.work(database)
        if database.file.moved():
            # It went into a file that nobody will find; unless what is in that can be brought over, it was for nothing.
            self._replace(None)
        if database.file.reserve.held:
            self._say("")

    def _goes_on(self, error: Exception) -> bool:
        """Whether the others may do better by themselves."""
        return self._database.file.usable and (disk_full(error) or self._refusal(error))

    @staticmethod
    def _refusal(error: Exception) -> bool:
        """Whether it is what was to be done that is wrong, not the file."""
        return not isinstance(error, FAILURES) or isinstance(error, sqlite3.IntegrityError) or refused(error)

    def _ready(self) -> bool:
        """The file is open, or can be opened again."""
        if self._database.file.usable:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + RETRY
        try:
            self._database.file.connect()
            self._recount()
        except (*FAILURES, SpoolError) as error:
            self._database.file.disconnect()
            self._say(describe(error))
            return False
        self._say("" if self._database.file.reserve.held else FULL)
        return True

    def _probe(self) -> None:
        """Find out whether there is room again."""
        self._database.probe()
        self._say("")

    def _trouble(self, error: Exception) -> None:
        if not isinstance(error, FAILURES):
            logger.error("a job of the queue has failed", exc_info=error)
            return
        self._say(describe(error))
        try:
            if self._database.file.moved() and self._database.file.usable:
                self._replace(None)
            elif damaged(error):
                self._replace(error)
            elif not disk_full(error):
                self._database.file.disconnect()
            else:
                self._behind = 0
                with contextlib.suppress(*FAILURES):
                    self._database.file.make_room()
        except (*FAILURES, SpoolError) as another:
            self._say(describe(another))
            self._database.file.disconnect()

    def _replace(self, cause: Exception | None) -> None:
        try:
            self._database.file.salvage(cause)
        except BaseException:
            self._database.file.disconnect()
            raise
        self._recount()

    def _recount(self) -> None:
        lost = self._database.missing
        if lost:
            file = str(self._database.file.files.base)
            EVENTS.tell(logger, logging.ERROR, "queue", "stored requests are lost", requests=lost, file=file)
        self._worker.post(self._recounted, None)

    def _refuse(self, batch: list[Job]) -> None:
        for job in batch:
            job.error = SpoolError(f"queued requests cannot be stored: {self.problem}")

    def _say(self, problem: str) -> None:
        if problem and not self.problem:
            file = str(self._database.file.files.base)
            EVENTS.tell(logger, logging.ERROR, "queue", f"requests cannot be stored: {problem}", file=file)
        elif self.problem and not problem:
            EVENTS.tell(logger, logging.INFO, "queue", "requests can be stored again")
        self.problem = problem

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _settle(self, batch: list[Job]) -> None:
        for job in batch:
            self._waiting -= job.size
            try:
                job.done(job.result if job.error is None else None, job.error)
            except Exception:
                logger.exception("what was to be done after the queue's answer has failed")

    def _recounted(self, _: None) -> None:
        if self.on_recount is not None:
            self.on_recount()


def _error(error: Exception, doubt: bool) -> SpoolError:
    if doubt:
        return InDoubtError(f"it is not known whether queued requests were stored: {describe(error)}")
    if isinstance(error, SpoolError):
        return error
    return SpoolError(f"queued requests cannot be stored: {describe(error)}")
