"""The queue's database, SQLite; everything in it is synchronous and for one thread at a time.

A row per request, in the order they came, and a row per outcome. As the AMQP spool, of which it has the files, the
settings and the care for a disk that fails: the log is synced with every transaction, so what is committed survives a
loss of power; a file that was deleted or is damaged is copied, as far as it can be read, into a new one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

from sidecar.amqp.spool.database import FAILURES, damaged, describe, disk_full, refused, roll_back
from sidecar.amqp.spool.errors import SpoolError
from sidecar.amqp.spool.files import Files, identity
from sidecar.queue.record import Found, Outcome, Request

logger = logging.getLogger("sidecar.queue")

#: The schema that this version writes; files of another one are refused.
SCHEMA: Final = 1
#: Says in the file's header whose it is.
APPLICATION: Final = 0x53435148

_PAGE: Final = 4096
_CACHE: Final = 1024
#: How much of the log stays allocated: what is removed can then be written down on a full disk, too.
_LOG_KEPT: Final = 4 << 20
#: A file of so many bytes is given up when the disk is full: so there is room for outcomes, and the queue empties.
_RESERVE: Final = 4 << 20
#: Expired requests, and outcomes to forget, at a time.
_SWEEP: Final = 200
#: What is wrong when there is no such room.
FULL: Final = "the disk is full"

_TABLES: Final = """
CREATE TABLE request (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, lane TEXT NOT NULL, at REAL NOT NULL,
    expires REAL NOT NULL, attempts INTEGER NOT NULL, size INTEGER NOT NULL, client TEXT NOT NULL,
    request_id TEXT NOT NULL, digest BLOB NOT NULL, crc INTEGER NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL);
CREATE INDEX request_order ON request (lane, number, size);
CREATE INDEX request_expires ON request (expires, lane, size);
CREATE INDEX request_keyed ON request (number) WHERE digest <> x'';
CREATE TABLE outcome (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, expires REAL NOT NULL,
    attempts INTEGER NOT NULL, request_id TEXT NOT NULL, digest BLOB NOT NULL, reason TEXT NOT NULL,
    finished REAL NOT NULL, forget REAL NOT NULL, status INTEGER NOT NULL, whole INTEGER NOT NULL,
    size INTEGER NOT NULL, crc INTEGER NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL);
CREATE INDEX outcome_forget ON outcome (forget, size);
CREATE INDEX outcome_keyed ON outcome (number) WHERE digest <> x'';
CREATE TABLE secret (value BLOB NOT NULL);
CREATE TABLE probe (data BLOB);
"""
_REQUEST: Final = "number, id, lane, at, expires, attempts, client, request_id, digest, crc, head, body"
_OUTCOME: Final = (
    "number, id, at, expires, attempts, request_id, digest, reason, finished, forget, status, whole, crc, head, body"
)

#: Of a lane, how many requests and bytes.
Counts = dict[str, tuple[int, int]]
#: A request that has gone: its lane and its size.
Gone = tuple[str, int]


class BadHeaderError(sqlite3.DatabaseError):
    """The file has not even the beginning of a database."""


class Database:
    """One listener's queue on the disk. ``max_outcomes`` bounds the outcomes, bytes: the oldest go first. All methods
    raise ``sqlite3.Error`` or ``OSError`` when the file cannot be used; the methods that are jobs are called within
    :meth:`transaction`."""

    def __init__(self, folder: Path, name: str, max_outcomes: int, wall: Callable[[], float]) -> None:
        self.files = Files(folder, name)
        self.max_outcomes = max_outcomes
        self._wall = wall
        self._sql: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._outcome_bytes = 0
        self._reserve = self.files.base.with_name(self.files.base.name + ".reserve")
        #: There is room beside what is stored; without that, nothing more is.
        self.reserved = False
        #: Makes ids of clients' keys.
        self.secret = b""
        #: Requests that could not be read again, since this object was made.
        self.corrupt = 0

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make or read the file, which nobody else has; what can be read of a damaged one is copied. Raises
        :class:`SpoolError`, with a text for an operator, when it is of no use."""
        try:
            self.connect()
        except FAILURES as error:
            self.close()
            raise SpoolError(f"{self.files.base}: {describe(error)}") from error
        except SpoolError:
            self.close()
            raise

    def connect(self) -> None:
        """As :meth:`open`, again; the lock stays."""
        self.disconnect()
        self.files.prepare()
        self.files.replace(self._wall())
        self.files.create()
        try:
            self._check_header()
            self._connect()
        except FAILURES as error:
            if is_damage(error):
                self.salvage(error)
            elif disk_full(error) and self._reserve.exists():
                self.release()
                self._connect()
            else:
                raise

    def _check_header(self) -> None:
        """Whose it is, and of which version (SQLite's file format, §1.3), before SQLite writes to it."""
        header = self.files.header()
        if not header:
            return
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise BadHeaderError("file is not a database")
        if int.from_bytes(header[68:72], "big") != APPLICATION:
            raise SpoolError(f"{self.files.base} is not a queue of requests but somebody else's database")
        version = int.from_bytes(header[60:64], "big")
        if version != SCHEMA:
            raise SpoolError(
                f"{self.files.base} was written by another version of the sidecar: its schema is {version}, "
                f"and this one knows {SCHEMA}"
            )

    def _connect(self) -> None:
        sql = connect(self.files.base)
        self._sql = sql
        try:
            # This shows that it can be written, and makes the log, which is watched from now on.
            sql.execute("DELETE FROM probe")
            sql.execute("UPDATE secret SET value = value")
            self.secret = bytes(sql.execute("SELECT value FROM secret").fetchone()[0])
            self._count_outcomes()
        except BaseException:
            sql.close()
            self._sql = None
            raise
        self._file = identity(self.files.base)
        self._log = identity(self.files.wal)
        try:
            self.reserve()
        except OSError as error:
            logger.warning("no room can be set aside for outcomes: %s", describe(error))

    def _count_outcomes(self) -> None:
        self._outcome_bytes = self._number("SELECT coalesce(sum(size), 0) FROM outcome INDEXED BY outcome_forget")

    def disconnect(self) -> None:
        """Close the file; the lock stays."""
        sql, self._sql = self._sql, None
        if sql is not None:
            try:
                sql.close()
            except sqlite3.Error as error:
                logger.warning("the queue's file could not be closed well: %s", describe(error))

    def close(self) -> None:
        """Close the file and give up the lock."""
        self.disconnect()
        self.files.release()

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._sql is not None

    def moved(self) -> bool:
        """Whether its name does not lead to it any more: it was deleted or replaced, and what is written goes where
        nobody will find it."""
        if self._file is None or identity(self.files.base) != self._file:
            return True
        log = identity(self.files.wal)
        if self._log is None:
            self._log = log
        return log != self._log

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Committed, and on the disk, at the end; or as if it had not been."""
        sql = self._open()
        outcomes = self._outcome_bytes
        sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            sql.execute("COMMIT")
        except BaseException:
            roll_back(sql)
            self._outcome_bytes = outcomes
            raise

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def lanes(self) -> Counts:
        """What waits, by lane."""
        rows = self._open().execute(
            "SELECT lane, count(*), sum(size) FROM request INDEXED BY request_order GROUP BY lane"
        )
        return {lane: (count, size) for lane, count, size in rows}

    def keyed(self) -> bool:
        """Whether clients have named keys for anything that is here."""
        return bool(
            self._number(
                "SELECT EXISTS (SELECT 1 FROM request WHERE digest <> x'') "
                "OR EXISTS (SELECT 1 FROM outcome WHERE digest <> x'')"
            )
        )

    def put(self, request: Request) -> Found | None:
        """Store it; it has its number then. If one with its id is here already, that is returned instead."""
        if request.digest:
            found = self.find(request.id)
            if found is not None:
                return found
        if not self.reserved:
            raise SpoolError(f"queued requests cannot be stored: {FULL}")
        cursor = self._open().execute(
            "INSERT INTO request (id, lane, at, expires, attempts, size, client, request_id, digest, crc, head, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                request.id, request.lane, request.at, request.expires, request.attempts, request.size, request.client,
                request.request_id, request.digest, request.check(), request.head, request.body,
            ),
        )  # fmt: skip
        number = cursor.lastrowid
        assert number is not None
        request.number = number
        return None

    def fetch(self, lane: str, after: int, limit: int, limit_bytes: int) -> tuple[list[Request], bool]:
        """The next requests of a lane behind number ``after``: at most so many and (but for the first) so many bytes;
        and whether there may be more. Damaged ones get an outcome that says so."""
        rows = self._open().execute(
            f"SELECT {_REQUEST} FROM request INDEXED BY request_order WHERE lane = ? AND number > ? "
            "ORDER BY number LIMIT ?",
            (lane, after, limit),
        )
        found: list[Request] = []
        more = False
        count = 0
        try:
            for row in rows:
                count += 1
                request = _request(row)
                limit_bytes -= request.size
                if limit_bytes < 0 and found:
                    more = True
                    break
                found.append(request)
        finally:
            rows.close()
        return found, more or count == limit

    def find(self, id: str, body: bool = False) -> Found | None:
        """What is known of a request; with the outcome's ``body``, if asked for."""
        sql = self._open()
        row = sql.execute(
            "SELECT id, number, at, expires, attempts, request_id, digest FROM request WHERE id = ?", (id,)
        ).fetchone()
        if row is not None:
            return _found(row, None)
        columns = "crc, head, body" if body else "0, x'', x''"
        row = sql.execute(
            "SELECT id, number, at, expires, attempts, request_id, digest, reason, finished, forget, status, whole, "
            f"{columns} FROM outcome WHERE id = ?",
            (id,),
        ).fetchone()
        if row is None:
            return None
        reason, finished, forget, status, whole, crc, head, payload = row[7:]
        if body and _crc(row[0], head, payload) != crc:
            head, payload, whole = b"", b"", False
        outcome = Outcome(
            reason=reason, finished=finished, forget=forget, status=status, head=head, body=payload, whole=bool(whole)
        )
        return _found(row, outcome)

    def tried(self, number: int) -> None:
        """A try may have reached the app, and brought nothing that ends it."""
        self._open().execute("UPDATE request SET attempts = attempts + 1 WHERE number = ?", (number,))

    def finish(self, number: int, outcome: Outcome) -> Gone | None:
        """It waits no more. None: it did not before."""
        sql = self._open()
        row = sql.execute("SELECT lane, size, id FROM request WHERE number = ?", (number,)).fetchone()
        if row is None:
            return None
        lane, size, id = row
        sql.execute(
            "INSERT OR REPLACE INTO outcome SELECT number, id, at, expires, attempts, request_id, digest, "
            "?, ?, ?, ?, ?, ?, ?, ?, ? FROM request WHERE number = ?",
            (
                outcome.reason, outcome.finished, outcome.forget, outcome.status, outcome.whole, outcome.size,
                _crc(id, outcome.head, outcome.body), outcome.head, outcome.body, number,
            ),
        )  # fmt: skip
        sql.execute("DELETE FROM request WHERE number = ?", (number,))
        self._outcome_bytes += outcome.size
        while self._outcome_bytes > self.max_outcomes:
            oldest = sql.execute("SELECT number, size FROM outcome ORDER BY number LIMIT 1").fetchone()
            if oldest is None or oldest[0] == number:
                break
            sql.execute("DELETE FROM outcome WHERE number = ?", (oldest[0],))
            self._outcome_bytes -= oldest[1]
        return lane, size

    def sweep(self, now: float, busy: Collection[int], keep: float) -> tuple[list[Gone], bool]:
        """Requests that have expired, but for ``busy`` ones, fail; outcomes that nobody may ask for any more go. Not
        all at once. What has expired, and :meth:`keyed`."""
        sql = self._open()
        gone: list[Gone] = []
        expired = sql.execute(
            "SELECT number FROM request WHERE expires <= ? ORDER BY expires LIMIT ?", (now, _SWEEP + len(busy))
        ).fetchall()
        for (number,) in expired:
            if number not in busy:
                found = self.finish(number, Outcome(reason="expired", finished=now, forget=now + keep))
                if found is not None:
                    gone.append(found)
        for number, size in sql.execute(
            "SELECT number, size FROM outcome WHERE forget <= ? LIMIT ?", (now, _SWEEP)
        ).fetchall():
            sql.execute("DELETE FROM outcome WHERE number = ?", (number,))
            self._outcome_bytes -= size
        return gone, self.keyed()

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Set some room aside. Raises ``OSError`` when there is none."""
        if self.reserved and self._reserve.exists():
            return
        self.reserved = False
        file = os.open(self._reserve, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, _RESERVE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not every file system can
                self._reserve.unlink(missing_ok=True)
                raise
        finally:
            os.close(file)
        self.reserved = True

    def release(self) -> None:
        """The disk is full: give that room up."""
        self.reserved = False
        self._reserve.unlink(missing_ok=True)

    def probe(self) -> None:
        """A request's worth can be written."""
        sql = self._open()
        sql.execute("INSERT INTO probe VALUES (zeroblob(65536))")
        sql.execute("DELETE FROM probe")

    def checkpoint(self) -> None:
        """Copy the log into the database, so that the log can begin anew, and give unused pages back."""
        sql = self._open()
        if self._number("PRAGMA freelist_count") > self._number("PRAGMA page_count") // 2:
            sql.executescript("PRAGMA incremental_vacuum(512)")
        sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def salvage(self, cause: Exception | None) -> None:
        """Copy all that can be read into a new file, which takes this one's place; the old one is kept beside it.
        ``cause`` None: the file was deleted or replaced, but is still open."""
        files = self.files
        logger.error(
            "the file of queued requests is %s; what is in it goes into a new one",
            f"damaged ({describe(cause)})" if cause is not None else "gone",
            extra={"file": str(files.base)},
        )
        files.prepare()
        files.discard_growing()
        reader = self._sql
        if reader is None and not isinstance(cause, BadHeaderError):
            with contextlib.suppress(*FAILURES):
                reader = self._sql = connect(files.base)
        if reader is not None:
            roll_back(reader)
        lost = _copy(reader, files.growing, self.secret)
        files.growing.rename(files.whole)
        self.disconnect()
        aside = files.replace(self._wall())
        self._connect()
        self.corrupt += lost
        logger.error(
            "queued requests have a new file",
            extra={"file": str(files.base), "kept": "" if aside is None else str(aside), "lost": lost},
        )

    def _open(self) -> sqlite3.Connection:
        if self._sql is None:
            raise sqlite3.OperationalError("the file of queued requests is not open")
        return self._sql

    def _number(self, statement: str) -> int:
        row = self._open().execute(statement).fetchone()
        if row is None:
            raise sqlite3.DatabaseError("a row is missing")
        return int(row[0])


def is_damage(error: BaseException) -> bool:
    """Whether the file is not what was written."""
    return damaged(error) or isinstance(error, BadHeaderError)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a database, for one process alone; an empty file becomes a queue."""
    sql = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        sql.execute("PRAGMA trusted_schema = OFF")
        sql.execute("PRAGMA cell_size_check = ON")
        sql.execute(f"PRAGMA cache_size = -{_CACHE}")
        if not sql.execute("PRAGMA schema_version").fetchone()[0]:
            sql.execute(f"PRAGMA page_size = {_PAGE}")
            sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
            sql.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} "
                f"INSERT INTO secret VALUES (x'{secrets.token_hex(32)}'); COMMIT;"
            )
        sql.execute("PRAGMA journal_mode = WAL").fetchall()
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA wal_autocheckpoint = 0")
        sql.execute(f"PRAGMA journal_size_limit = {_LOG_KEPT}")
    except BaseException:
        sql.close()
        raise
    return sql


def _request(row: tuple[Any, ...]) -> Request:
    number, id, lane, at, expires, attempts, client, request_id, digest, crc, head, body = row
    request = Request(
        id=id, lane=lane, at=at, expires=expires, client=client, request_id=request_id, digest=digest, head=head,
        body=body, number=number, attempts=attempts,
    )  # fmt: skip
    if request.check() != crc:
        request.head = b""  # nothing that could be sent
    return request


def _found(row: tuple[Any, ...], outcome: Outcome | None) -> Found:
    id, number, at, expires, attempts, request_id, digest = row[:7]
    return Found(id, number, at, expires, attempts, request_id, digest, outcome)


def _crc(id: str, head: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(head, zlib.crc32(id.encode())))


def _copy(reader: sqlite3.Connection | None, path: Path, secret: bytes) -> int:
    """All rows of ``reader`` that can be read, in a new database at ``path``; how many requests cannot, as far as is
    known."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    writer = connect(path)
    lost = 0
    try:
        writer.execute("BEGIN")
        if secret:
            writer.execute("UPDATE secret SET value = ?", (secret,))
        if reader is not None:
            copied = 0
            for table, columns in (("request", f"{_REQUEST}, size"), ("outcome", f"{_OUTCOME}, size")):
                marks = ", ".join("?" * (columns.count(",") + 1))
                for row in _rows(reader, table, columns):
                    with contextlib.suppress(sqlite3.IntegrityError, sqlite3.InterfaceError):
                        writer.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)
                        copied += table == "request"
            with contextlib.suppress(*FAILURES):
                expected = reader.execute("SELECT count(*) FROM request INDEXED BY request_order").fetchone()[0]
                lost = max(0, expected - copied)
            with contextlib.suppress(*FAILURES):
                row = reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'request'").fetchone()
                if row is not None:
                    writer.execute("DELETE FROM sqlite_sequence WHERE name = 'request'")
                    writer.execute("INSERT INTO sqlite_sequence VALUES ('request', ?)", (row[0] + 1,))
            if not secret:
                with contextlib.suppress(*FAILURES):
                    row = reader.execute("SELECT value FROM secret").fetchone()
                    writer.execute("UPDATE secret SET value = ?", (bytes(row[0]),))
        writer.execute("COMMIT")
    finally:
        writer.close()
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    return lost


def _rows(reader: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read, by number. Behind one that cannot, steps that double find the next that can: a few
    good ones may be passed over."""
    last = -1
    step = 0
    while last < 1 << 62:
        try:
            for row in reader.execute(
                f"SELECT {columns} FROM {table} NOT INDEXED WHERE number > ? ORDER BY number", (last,)
            ):
                last = row[0]
                step = 0
                yield row
            return
        except FAILURES as error:
            logger.warning("queued requests cannot be read: %s", describe(error), extra={"behind": last})
            step = max(1, step * 2)
            last += step


__all__ = ["FAILURES", "FULL", "Counts", "Database", "SpoolError", "describe", "disk_full", "is_damage", "refused"]
