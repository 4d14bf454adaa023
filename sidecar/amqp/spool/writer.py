"""The thread that owns the spool's database.

It takes what is queued, makes one transaction of it, and says what came of it. What cannot be written down because of
the disk is refused (messages to be stored) or kept and tried again every second (everything else).

On a full disk nothing is stored, but what is there can be removed: room was set aside for that. It is given up, the log
is copied into the file, and removals are then written a few at a time, each time to the beginning of the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.jobs import Call, Fetch, Job, Order, Outcome, Put, State, Stop
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import (
    Counts,
    Transaction,
    add_differences,
    copied,
    count_changes,
    removal,
    writable,
)
from sidecar.core.events import EVENTS
from sidecar.storage.errors import DiskFullError, SpoolError
from sidecar.storage.faults import FAILURES, damaged, describe, disk_full, refused
from sidecar.storage.worker import Worker

logger = logging.getLogger("sidecar.amqp.spool")

#: A transaction takes in no more when it has so many messages or bytes.
BATCH: Final = 2000
BATCH_BYTES: Final = 1 << 20
#: When there is little room, changes are written so many at a time.
PIECE: Final = 64
#: How much log is left before it is copied into the database, bytes; and after how long without work, seconds.
BEHIND: Final = 4 << 20
IDLE: Final = 0.5
#: Seconds between two looks whether the file is still there; and between two tries of what did not work.
LOOK: Final = 5.0
RETRY: Final = 1.0

# What has to be done before anything else can be.
_FINE: Final = 0
_REOPEN: Final = 1
#: Copied into a new file: because this one is damaged, or because its name does not lead to it any more.
_DAMAGED: Final = 2
_GONE: Final = 3


class Writer:
    """What the thread runs."""

    def __init__(self, database: Database, worker: Worker[Job], settle: Callable[[list[Outcome]], None]) -> None:
        self._database = database
        self._worker = worker
        self._settle = settle
        self._puts: list[Put] = []
        self._order = Order()
        self._fetches: list[Fetch] = []
        self._calls: list[Call] = []
        self._stop: Stop | None = None
        #: What is to be changed; it stays here until it is.
        self._changes = Transaction()
        self._state = _FINE
        self._error: Exception | None = None
        self._next_try = 0.0
        self._problem = ""
        #: What the file should hold, while it is out of use; and what it turned out not to.
        self._before: Counts | None = None
        self._missing: Counts = {}
        #: There may be pages that the file system can have back, when there is time.
        self._shrinking = False
        self._outcomes: list[Outcome] = []
        self._said: State | None = None

    def run(self) -> None:
        """Until it is told to stop."""
        self._said = State(self._database, "", {})
        if not self._database.file.reserve.held:
            self._trouble(DiskFullError())
        while self._stop is None:
            self._worker.wait(self._pause())
            self._take()
            try:
                self._round()
            except Exception as error:  # nobody may wait for an answer that does not come
                logger.exception("the spool's thread has failed")
                self._trouble(error)
                self._refuse()
            self._say()
        self._end(self._stop)

    def _pause(self) -> float | None:
        if self._shrinking and self._state == _FINE:
            return 0.0
        if self._problem:
            return max(0.0, self._next_try - time.monotonic())
        if self._changes:
            return 0.0
        return IDLE if self._database.behind else LOOK

    def _take(self) -> None:
        """What the next transaction has in it."""
        jobs = self._worker.jobs
        count = size = 0
        changes = self._changes
        while jobs and count < BATCH and size < BATCH_BYTES:
            job = jobs.popleft()
            if isinstance(job, Put) and self._order.broken(job):
                self._order.refuse(job, self._problem or "those before could not be stored")
                self._outcomes.append(job)
            elif isinstance(job, Put):
                self._puts.append(job)
                count += len(job.messages)
                size += job.size
            elif isinstance(job, Transaction):
                changes.removed += job.removed
                changes.tried += job.tried
                changes.dead += [death for death in job.dead if writable(death)]
                count += len(job.removed)
            elif isinstance(job, Fetch):
                self._fetches.append(job)
                count += job.limit
            elif isinstance(job, Call):
                self._calls.append(job)
            else:
                self._stop = job
                return

    def _round(self) -> None:
        idle = not (self._puts or self._fetches or self._calls or self._changes)
        if self._state != _FINE and not self._repair():
            self._refuse()
            return
        if self._puts or self._changes:
            self._write()
        if self._problem and self._state == _FINE and time.monotonic() >= self._next_try:
            self._probe()
        if self._state == _FINE and self._fetches and not self._changes:
            self._read()
        if self._state != _FINE:
            self._refuse()
            return
        for call in self._calls:
            self._do(call)
        self._calls = []
        self._say()
        if idle:
            self._keep_up()
        elif self._database.behind > (0 if self._problem else BEHIND):
            self._checkpoint()

    # -- transactions --------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """What is to be stored and changed, in one transaction. If the disk does not take it, the changes alone: they
        make room, or need less of it."""
        puts = self._puts
        messages: list[SpooledMessage] = []
        for put in puts:
            messages += put.messages
        error = self._commit(messages, self._changes)
        if error is not None:
            if refused(error):
                self._one_by_one(puts)
            else:
                self._order.fail(puts, describe(error))
            self._little_by_little()
        self._outcomes += puts
        self._puts = []
        if error is None and messages:
            self._well()

    def _one_by_one(self, puts: list[Put]) -> None:
        """One of them is no message that could be written; the others must not suffer."""
        for number, put in enumerate(puts):
            error = self._commit(put.messages, self._changes)
            if error is not None and not refused(error):
                self._order.fail(puts[number:], describe(error))
                break
            if error is not None:
                put.error = SpoolError(f"the spool cannot store a message: {describe(error)}")

    def _little_by_little(self) -> None:
        """The changes, as far as they can be written."""
        rows = PIECE
        while self._changes and self._state == _FINE and rows:
            error = self._commit([], self._changes.piece(rows) if self._problem else self._changes)
            if error is not None and not disk_full(error):
                return
            if error is not None:
                rows //= 4
            elif self._problem:
                self._checkpoint()

    def _commit(self, messages: list[SpooledMessage], changes: Transaction) -> Exception | None:
        """A transaction with these messages and changes; what went wrong."""
        try:
            self._database.write(messages, changes)
            self._database.set_right(self._missing)
        except Exception as error:
            if not refused(error):
                self._trouble(error)
            return error
        self._changes.drop(changes)
        if not self._database.file.moved():
            return None
        # It went into a file that nobody will find; unless what is in that can be brought over, it was for nothing.
        self._gone()
        if self._repair():
            return None
        count_changes(self._database.counts, (), removal(messages))
        self._before = copied(self._database.counts)
        return OSError(0, "the spool's file was deleted")

    def _read(self) -> None:
        fetches = self._fetches
        while fetches:
            fetch = fetches[0]
            try:
                fetch.messages, bad = self._database.fetch(fetch.stream, fetch.after, fetch.limit, fetch.limit_bytes)
            except FAILURES as error:
                self._trouble(error)
                return
            if bad:
                logger.error(
                    "messages of the spool are damaged and have become dead letters",
                    extra={"messages": [it.id for it in bad]},
                )
                self._changes.bad += bad
                fetch.bad += bad
            if fetch.messages or not bad:
                self._outcomes.append(fetch)
                del fetches[0]
            if bad:
                return  # nobody may meet them again; and none at all would mean that there are no more

    def _do(self, call: Call) -> None:
        try:
            call.result = call.work(self._database)
        except FAILURES as error:
            if not refused(error):
                self._trouble(error)
            call.error = SpoolError(f"the spool cannot do that: {describe(error)}")
        self._outcomes.append(call)

    def _refuse(self) -> None:
        """Nothing works: say so to those who can do something else. The others wait."""
        self._order.fail([put for put in self._puts if put.error is None], self._problem)
        for call in self._calls:
            call.error = SpoolError(f"the spool cannot do that: {self._problem}")
        self._outcomes += [*self._puts, *self._calls]
        self._puts = []
        self._calls = []

    def _say(self) -> None:
        outcomes = self._outcomes
        state = State(self._database, self._problem, self._missing)
        if self._said is None or not state.same(self._said):
            self._said = state
            self._missing = {}
            outcomes.insert(0, state)
        if outcomes:
            self._outcomes = []
            self._worker.post(self._settle, outcomes)

    # -- trouble and upkeep --------------------------------------------------------------------------------------------

    def _trouble(self, error: Exception) -> None:
        """The disk did not do what it should."""
        text = describe(error)
        now = time.monotonic()
        if not self._problem:
            file = str(self._database.file.files.base)
            EVENTS.tell(logger, logging.ERROR, "spool", f"the spool does not work: {text}", file=file)
        if not self._problem or now >= self._next_try:
            self._next_try = now + RETRY
        self._problem = text
        if self._database.file.moved():
            self._gone()
            return
        if disk_full(error):
            self._make_room()
            return
        self._out_of_use()
        self._error = error
        if damaged(error):
            self._state = _DAMAGED
            self._next_try = now
        else:
            self._state = _REOPEN

    def _make_room(self) -> None:
        try:
            self._database.make_room()
        except FAILURES as error:
            if not disk_full(error):
                self._trouble(error)

    def _gone(self) -> None:
        self._out_of_use()
        self._state = _GONE
        self._error = None
        self._problem = "its file was deleted or replaced"
        self._next_try = time.monotonic()

    def _out_of_use(self) -> None:
        if self._before is None:
            self._before = copied(self._database.counts)

    def _repair(self) -> bool:
        """Bring the file back into use, if it is time to try; whether it is."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + RETRY
        database = self._database
        assert self._before is not None
        try:
            if self._state == _REOPEN:
                database.file.reopen()
            else:
                database.file.salvage(self._error)
            database.write((), self._changes)
            count_changes(self._before, (), self._changes)
            self._changes = Transaction()
            database.recount()
        except (*FAILURES, SpoolError) as error:
            text = describe(error)
            if text != self._problem:
                logger.error("the spool cannot be brought back: %s", text)
            self._problem = text
            if self._state != _REOPEN and not database.file.usable:
                self._state = _REOPEN
            return False
        add_differences(self._before, database.counts, self._missing)
        lost = sum(it[0] for it in self._before.values()) - sum(it[0] for it in database.counts.values())
        if lost > 0:
            file = str(database.file.files.base)
            EVENTS.tell(logger, logging.ERROR, "spool", "messages of the spool are lost", messages=lost, file=file)
        self._before = None
        self._error = None
        self._state = _FINE
        self._well()
        return True

    def _probe(self) -> None:
        try:
            self._database.probe()
        except FAILURES as error:
            self._trouble(error)
        else:
            self._well()

    def _well(self) -> None:
        if self._problem and self._state == _FINE:
            self._problem = "" if self._database.file.reserve.held else describe(DiskFullError())
            if not self._problem:
                EVENTS.tell(logger, logging.INFO, "spool", "the spool works again")

    def _keep_up(self) -> None:
        """There is time."""
        if self._database.file.moved():
            self._trouble(OSError(0, "the spool's file was deleted"))
        elif self._shrinking and self._database.behind < BEHIND:
            try:
                self._shrinking = self._database.shrink()
            except FAILURES as error:
                self._shrinking = False
                if not disk_full(error):
                    self._trouble(error)
        elif self._database.behind:
            self._checkpoint()

    def _checkpoint(self) -> None:
        try:
            self._database.checkpoint()
        except FAILURES as error:
            if disk_full(error):
                logger.debug("the spool's log cannot be copied into its database: %s", describe(error))
            else:
                self._trouble(error)
        else:
            self._shrinking = True

    def _end(self, stop: Stop) -> None:
        if self._changes:
            logger.error(
                "the spool ends with removals that could not be written down; these messages will be sent again",
                extra={"messages": len(self._changes.removed) + len(self._changes.dead)},
            )
        self._database.close()
        last: list[Outcome] = [*self._fetches, stop]
        self._worker.post(self._settle, last)
