"""The spool's database, SQLite; everything in it is synchronous and for one thread at a time.

A row per message, in the order they came, and an index that lists them by stream, priority and number; so the next ones
of a stream are a range of the index, and all counts can be read from it alone. Rows of a transaction are bound in few
statements: each statement gives up the interpreter's lock and has to win it back from a busy event loop.

The log is written and synced with every transaction (WAL, ``synchronous=FULL``), so that what is committed survives a
loss of power. It is copied into the database when there are some megabytes of it, by whoever calls
:meth:`Database.checkpoint`: not within a commit, which somebody waits for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from sidecar.amqp.spool.codec import pack
from sidecar.amqp.spool.dead_letters import DeadLetter, DeadLetterTable
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.messages import MessageTable
from sidecar.amqp.spool.transaction import (
    BadRow,
    Count,
    Counts,
    StreamName,
    Transaction,
    add_differences,
    count_changes,
)
from sidecar.storage.database import DatabaseFile
from sidecar.storage.sqlite import Format, blob, scalar

logger = logging.getLogger("sidecar.amqp.spool")

#: The schema that this version writes; files of a later one are refused.
SCHEMA: Final = 1
#: Says in the file's header whose it is.
APPLICATION: Final = 0x53435350

_PAGE: Final = 8192
#: Numbers are taken from the file in blocks, so that none is used twice even if what had it is gone.
_BLOCK: Final = 1 << 16
#: Free pages that are left in the file, and how many are given back at a time.
_FREE_KEPT: Final = (1 << 20) // _PAGE
_FREE_STEP: Final = (2 << 20) // _PAGE

FORM: Final = Format(
    what="a spool",
    application=APPLICATION,
    schema=SCHEMA,
    page=_PAGE,
    cache=512 << 10,
    log_kept=16 << 20,
    log_room=3 << 20,
    room=1 << 20,
    tables="""
CREATE TABLE key (id INTEGER PRIMARY KEY, vhost BLOB NOT NULL, lane BLOB NOT NULL, UNIQUE (vhost, lane));
CREATE TABLE message (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL, rank INTEGER NOT NULL, size INTEGER NOT NULL,
    attempts INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX message_order ON message (key, rank, id, size);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, died REAL NOT NULL, reason TEXT NOT NULL, code INTEGER NOT NULL, exchange BLOB NOT NULL,
    size INTEGER NOT NULL, attempts INTEGER NOT NULL, data BLOB NOT NULL, text TEXT NOT NULL DEFAULT '');
CREATE INDEX dead_order ON dead (reason, exchange, id, size);
CREATE TABLE number (next INTEGER NOT NULL);
CREATE TABLE probe (data BLOB);
INSERT INTO number VALUES (1);
""",
)
#: More than that must be free, bytes, before a disk that was full is thought to have room again.
_SPARE: Final = 1 << 20

_DELETE: Final = "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))"
_TRIED: Final = "UPDATE message SET attempts = ? WHERE id = ?"


class Database:
    """One upstream's spool on the disk. ``max_dead`` bounds the dead letters, bytes: the oldest go first, which is
    logged and counted in ``dropped``. Beside what each method says, all raise ``sqlite3.Error`` or ``OSError`` when the
    file cannot be used; then nothing of what was asked for has been done. Messages are stored only as long as there is
    room beside them for their removal (:meth:`DatabaseFile.hold`); else that raises :class:`DiskFullError`."""

    def __init__(
        self, folder: Path, name: str, max_dead: int = 1 << 62, clock_wall: Callable[[], float] = time.time
    ) -> None:
        self.file = DatabaseFile(folder, name, FORM, self, clock_wall)
        self._clock = clock_wall
        self.max_dead = max_dead
        self._next = 0
        self._next_block = 0
        #: Messages that were lost to damage, or set aside because of it, since this object was made.
        self.corrupt = 0
        #: Dead letters that had to go for newer ones.
        self.dropped = 0
        #: Bytes of log that are not yet in the database, about.
        self.behind = 0
        self.messages = MessageTable()
        self.dead = DeadLetterTable()
        #: While it is being copied: how many messages there were.
        self._before = 0
        #: Messages were to go that were not there, so that the counts are wrong.
        self._miscounted = False

    @property
    def counts(self) -> dict[StreamName, Count]:
        """Messages by stream, as committed."""
        return self.messages.counts

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """As :meth:`DatabaseFile.open`."""
        self.file.open()

    def close(self) -> None:
        """As :meth:`DatabaseFile.close`."""
        self.file.close()

    def load(self, sql: sqlite3.Connection) -> None:
        """Read the counts, and take a block of numbers. In a new file in the place of one that is gone they go on, as
        messages of that one may be on their way: their removal must not mean others."""
        sql.execute("UPDATE number SET next = max(next + 1, ?)", (max(self._next, self._next_block),))
        self._next = self._next_block = scalar(sql, "SELECT next FROM number")
        self.dead.upgrade(sql)
        self.messages.load(sql)
        self.dead.load(sql)

    def recount(self) -> None:
        """Count again what is in the file."""
        self.messages.recount(self.file.sql)
        self.dead.load(self.file.sql)
        self._miscounted = False

    def set_right(self, missing: Counts) -> None:
        """Count again, if something was to go that was lost before, and counted as such then; add to ``missing`` what
        is no longer there, which is less than nothing."""
        if self._miscounted:
            before = self.counts
            self.recount()
            add_differences(before, self.counts, missing)

    def copy(self, reader: sqlite3.Connection | None, writer: sqlite3.Connection) -> int:
        """See :class:`sidecar.storage.database.Contents`."""
        from sidecar.amqp.spool.salvage import copy

        self._before = self.messages.count
        return copy(reader, writer, max(self._next, self._next_block))

    def salvaged(self, lost: int) -> None:
        """See :class:`sidecar.storage.database.Contents`."""
        self.corrupt += max(lost, self._before - self.messages.count)

    # -- messages ------------------------------------------------------------------------------------------------------

    def write(self, puts: Sequence[SpooledMessage], changes: Transaction) -> None:
        """All of it in one transaction, which is on the disk when this returns; the messages then have their ids."""
        if puts:
            self.file.check_room()
        try:
            with self._transaction() as sql:
                self._reserve(sql, len(puts) + 2 * len(changes.dead) + len(changes.bad))
                self._number(puts)
                self.messages.insert(sql, puts)
                self._change(sql, changes)
                if puts:
                    self.file.hold()
        except BaseException:
            for message in puts:
                message.id = 0
            raise
        self._count(puts, changes)

    def _change(self, sql: sqlite3.Connection, changes: Transaction) -> None:
        if changes.tried:
            sql.executemany(_TRIED, {message.id: (message.attempts, message.id) for message in changes.tried}.values())
        for death in changes.dead:
            message = death.message
            number = self._take_number()
            if death.stored:
                there = self.dead.move(
                    sql, number, message.id, death.died, death.reason, death.code, blob(message.exchange), death.text
                )
                self._miscounted |= not there
            else:
                message.id = self._take_number()
                self.dead.add(
                    sql, number, death.died, death.reason, death.code, blob(message.exchange), message.size,
                    message.attempts, pack(message), death.text,
                )  # fmt: skip
        for bad in changes.bad:
            self.dead.move(sql, self._take_number(), bad.id, self._clock(), "corrupt", 0, b"")
        if changes.dead or changes.bad:
            gone = self.dead.bound(sql, self.max_dead)
            if gone:
                self.dropped += gone
                logger.warning("dead letters had to go for newer ones", extra={"dropped": gone})
        if changes.removed:
            self._miscounted |= sql.execute(_DELETE, (_ids(changes.removed),)).rowcount != len(changes.removed)

    def _count(self, puts: Sequence[SpooledMessage], changes: Transaction) -> None:
        self.behind += _PAGE + count_changes(self.counts, puts, changes)
        self.corrupt += len(changes.bad)

    def fetch(
        self, stream: StreamName, after: tuple[int, int] | None, limit: int, limit_bytes: int
    ) -> tuple[list[SpooledMessage], list[BadRow]]:
        """The next messages of a stream behind that place, at most so many and (but for the first) so many bytes; and
        those in between that are not what was written."""
        return self.messages.fetch(self.file.sql, stream, after, limit, limit_bytes)

    # -- dead letters --------------------------------------------------------------------------------------------------

    def list_dead(self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None) -> list[DeadLetter]:
        """The dead letters behind number ``after``, oldest first; of that reason and exchange, if given. Fewer than
        ``limit`` when they are large; none at all only at the end."""
        return self.dead.find(self.file.sql, limit, after, reason, None if exchange is None else blob(exchange))

    def get_dead(self, number: int) -> DeadLetter | None:
        """One of them."""
        return self.dead.get(self.file.sql, number)

    def drop_dead(self, numbers: Sequence[int]) -> int:
        """Forget them; how many there were."""
        with self._transaction() as sql:
            return self._drop(sql, numbers)

    def expire_dead(self, before: float) -> int:
        """Forget those that died before then, at most a thousand at a time; how many there were."""
        with self._transaction() as sql:
            return self._drop(sql, self.dead.older(sql, before, 1000))

    def _drop(self, sql: sqlite3.Connection, numbers: Sequence[int]) -> int:
        count = self.dead.drop(sql, numbers)
        self.behind += count * _PAGE  # each may be on a page of its own
        return count

    def replay_dead(self, numbers: Sequence[int]) -> list[SpooledMessage]:
        """Put them behind the other messages of their streams, as if they had come now; those that were, without what
        was in them. What is no message any more stays."""
        now = self._clock()
        messages: list[SpooledMessage] = []
        self.file.check_room()
        with self._transaction() as sql:
            self._reserve(sql, len(numbers))
            for number in numbers:
                letter = self.dead.get(sql, number)
                if letter is None or letter.message is None:
                    continue
                message = letter.message
                if message.expires:
                    message.expires += max(0.0, now - message.at)
                message.at = now
                message.attempts = 0
                self._number([message])
                self.messages.insert(sql, [message])
                self._drop(sql, [number])
                message.empty()  # there may be many, and large ones
                messages.append(message)
            self.file.hold()
        self._count(messages, Transaction())
        return messages

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """As :meth:`DatabaseFile.probe`."""
        self.file.probe(_SPARE)

    def checkpoint(self) -> None:
        """As :meth:`DatabaseFile.checkpoint`."""
        self.file.checkpoint()
        self.behind = 0

    def make_room(self) -> None:
        """As :meth:`DatabaseFile.make_room`."""
        self.file.make_room()
        self.behind = 0

    def shrink(self) -> bool:
        """Give some unused pages back to the file system; whether there are more."""
        sql = self.file.sql
        free = scalar(sql, "PRAGMA freelist_count")
        # As long as messages come and go, free pages are about to be used.
        if free <= _FREE_KEPT or free < scalar(sql, "PRAGMA page_count") // 4:
            return False
        step = min(_FREE_STEP, free - _FREE_KEPT)
        # Each step of this statement frees one page; a script makes all of them at once.
        sql.executescript(f"PRAGMA incremental_vacuum({step})")
        self.behind += step * _PAGE // 2
        return True

    # -- helpers -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed, and on the disk, at the end; or as if it had not been."""
        sql = self.file.sql
        streams, next_, next_block = self.messages.streams, self._next, self._next_block
        begun = False
        try:
            with self.file.transaction():
                begun = True
                yield sql
        except BaseException:
            if begun:
                self._next, self._next_block = next_, next_block
                self.messages.forget(streams)
                self.dead.load(sql)
            raise

    def _reserve(self, sql: sqlite3.Connection, count: int) -> None:
        """So many numbers can be taken without asking the file again."""
        if self._next + count > self._next_block:
            self._next_block = self._next + count + _BLOCK
            sql.execute("UPDATE number SET next = ?", (self._next_block,))

    def _number(self, messages: Iterable[SpooledMessage]) -> None:
        for message in messages:
            message.id = self._take_number()

    def _take_number(self) -> int:
        number = self._next
        self._next = number + 1
        return number


def _ids(messages: Iterable[SpooledMessage]) -> str:
    return json.dumps([message.id for message in messages])
