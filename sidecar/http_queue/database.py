"""The queue's database, SQLite; everything in it is synchronous and for one thread at a time.

A row per request, in the order they came, and a row per outcome. As with the AMQP spool, the log is synced with every
transaction, so what is committed survives a loss of power; a file that was deleted or is damaged is copied, as far as
it can be read, into a new one.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.http_queue.record import Found, Outcome, Request
from sidecar.storage.database import DatabaseFile
from sidecar.storage.faults import FAILURES
from sidecar.storage.salvage import count, rows
from sidecar.storage.sqlite import Format, scalar

#: The schema that this version writes; files of another one are refused.
SCHEMA: Final = 1
#: Says in the file's header whose it is.
APPLICATION: Final = 0x53435148

#: Expired requests, and outcomes to forget, at a time.
_SWEEP: Final = 200

FORM: Final = Format(
    what="a queue of requests",
    application=APPLICATION,
    schema=SCHEMA,
    page=4096,
    cache=1 << 20,
    log_kept=4 << 20,
    log_room=1 << 20,
    room=4 << 20,  # for outcomes, so that the queue empties
    tables="""
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
""",
)
_REQUEST: Final = "number, id, lane, at, expires, attempts, client, request_id, digest, crc, head, body"
_OUTCOME: Final = (
    "number, id, at, expires, attempts, request_id, digest, reason, finished, forget, status, whole, crc, head, body"
)

#: Of a lane, how many requests and bytes.
Counts = dict[str, tuple[int, int]]
#: A request that has gone: its lane and its size.
Gone = tuple[str, int]


class Database:
    """One listener's queue on the disk. ``max_outcomes`` bounds the outcomes, bytes: the oldest go first. All methods
    raise ``sqlite3.Error`` or ``OSError`` when the file cannot be used; the methods that are jobs are called within
    :meth:`transaction`. Requests are stored only as long as there is room beside them for their outcomes
    (:meth:`DatabaseFile.hold`); else :meth:`put` raises :class:`DiskFullError`."""

    def __init__(self, folder: Path, name: str, max_outcomes: int, wall: Callable[[], float]) -> None:
        self.file = DatabaseFile(folder, name, FORM, self, wall)
        self.max_outcomes = max_outcomes
        self._outcome_bytes = 0
        #: Requests in the file (-1: it was not opened yet), and how many fewer there were than thought when it was.
        self._requests = -1
        self.missing = 0
        #: Something is stored in this transaction.
        self._storing = False
        #: Makes ids of clients' keys.
        self.secret = b""
        #: Requests that could not be read again, since this object was made.
        self.corrupt = 0

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """As :meth:`DatabaseFile.open`."""
        self.file.open()

    def close(self) -> None:
        """As :meth:`DatabaseFile.close`."""
        self.file.close()

    def load(self, sql: sqlite3.Connection) -> None:
        """Read what is there; see :class:`sidecar.storage.database.Contents`."""
        sql.execute("DELETE FROM probe")
        sql.execute("INSERT INTO secret SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)", (secrets.token_bytes(32),))
        sql.execute("UPDATE secret SET value = value")
        self.secret = bytes(sql.execute("SELECT value FROM secret").fetchone()[0])
        before, self._requests = self._requests, scalar(sql, "SELECT count(*) FROM request INDEXED BY request_expires")
        self.missing = max(0, before - self._requests)
        self._outcome_bytes = scalar(sql, "SELECT coalesce(sum(size), 0) FROM outcome INDEXED BY outcome_forget")

    def copy(self, reader: sqlite3.Connection | None, writer: sqlite3.Connection) -> int:
        """See :class:`sidecar.storage.database.Contents`."""
        return _copy(reader, writer, self.secret)

    def salvaged(self, lost: int) -> None:
        """See :class:`sidecar.storage.database.Contents`."""
        self.corrupt += max(lost, self.missing)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Committed, and on the disk, at the end; or as if it had not been."""
        before = self._outcome_bytes, self._requests
        self._storing = False
        try:
            with self.file.transaction():
                yield
                if self._storing:
                    self.file.hold()
        except BaseException:
            self._outcome_bytes, self._requests = before
            raise

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def lanes(self) -> Counts:
        """What waits, by lane."""
        rows = self.file.sql.execute(
            "SELECT lane, count(*), sum(size) FROM request INDEXED BY request_order GROUP BY lane"
        )
        return {lane: (count, size) for lane, count, size in rows}

    def keyed(self) -> bool:
        """Whether clients have named keys for anything that is here."""
        return bool(
            scalar(
                self.file.sql,
                "SELECT EXISTS (SELECT 1 FROM request WHERE digest <> x'') "
                "OR EXISTS (SELECT 1 FROM outcome WHERE digest <> x'')",
            )
        )

    def put(self, request: Request) -> Found | None:
        """Store it; it has its number then. If one with its id is here already, that is returned instead."""
        if request.digest:
            found = self.find(request.id)
            if found is not None:
                return found
        elif request.number:
            # It was tried before, and may have got further than it seemed.
            row = self.file.sql.execute("SELECT number FROM request WHERE id = ?", (request.id,)).fetchone()
            if row is not None:
                request.number = row[0]
                return None
        self.file.check_room()
        self._storing = True
        cursor = self.file.sql.execute(
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
        self._requests += 1
        return None

    def fetch(self, lane: str, after: int, limit: int, limit_bytes: int) -> tuple[list[Request], bool]:
        """The next requests of a lane behind number ``after``: at most so many and (but for the first) so many bytes;
        and whether there may be more. Damaged ones get an outcome that says so."""
        rows = self.file.sql.execute(
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

    def some(self, numbers: Sequence[int], limit_bytes: int) -> tuple[list[Request], list[int]]:
        """Those of these requests that still wait, (but for the first) no more than so many bytes; and the numbers that
        were too much."""
        marks = ", ".join("?" * len(numbers))
        rows = self.file.sql.execute(
            f"SELECT {_REQUEST} FROM request WHERE number IN ({marks}) ORDER BY number", tuple(numbers)
        )
        found: list[Request] = []
        left: list[int] = []
        for row in rows:
            limit_bytes -= len(row[-1])
            if limit_bytes < 0 and found:
                left.append(row[0])
            else:
                found.append(_request(row))
        return found, left

    def find(self, id: str, body: bool = False) -> Found | None:
        """What is known of a request; with the outcome's ``body``, if asked for."""
        sql = self.file.sql
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
        self.file.sql.execute("UPDATE request SET attempts = attempts + 1 WHERE number = ?", (number,))

    def finish(self, number: int, outcome: Outcome) -> Gone | None:
        """It waits no more. None: it did not before."""
        sql = self.file.sql
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
        self._requests -= 1
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
        sql = self.file.sql
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

    def probe(self) -> None:
        """As :meth:`DatabaseFile.probe`."""
        self.file.probe()

    def checkpoint(self) -> None:
        """Copy the log into the database, so that the log can begin anew, and give unused pages back."""
        sql = self.file.sql
        if scalar(sql, "PRAGMA freelist_count") > scalar(sql, "PRAGMA page_count") // 2:
            sql.executescript("PRAGMA incremental_vacuum(512)")
        self.file.checkpoint()


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


def _copy(reader: sqlite3.Connection | None, writer: sqlite3.Connection, secret: bytes) -> int:
    """All rows of ``reader`` that can be read, in a new database; how many requests cannot, as far as is known."""
    lost = 0
    writer.execute("BEGIN")
    if reader is not None:
        copied = 0
        for table, columns in (("request", f"{_REQUEST}, size"), ("outcome", f"{_OUTCOME}, size")):
            marks = ", ".join("?" * (columns.count(",") + 1))
            for row in rows(reader, table, columns):
                with contextlib.suppress(sqlite3.IntegrityError, sqlite3.InterfaceError):
                    writer.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)
                    copied += table == "request"
        lost = max(0, count(reader, "request", "request_order") - copied)
        with contextlib.suppress(*FAILURES):
            row = reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'request'").fetchone()
            if row is not None:
                writer.execute("DELETE FROM sqlite_sequence WHERE name = 'request'")
                writer.execute("INSERT INTO sqlite_sequence VALUES ('request', ?)", (row[0] + 1,))
        if not secret:
            with contextlib.suppress(*FAILURES):
                secret = bytes(reader.execute("SELECT value FROM secret").fetchone()[0])
    if secret:
        writer.execute("INSERT INTO secret VALUES (?)", (secret,))
    writer.execute("COMMIT")
    return lost
