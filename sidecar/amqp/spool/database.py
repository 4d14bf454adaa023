"""The spool's database, SQLite; everything in it is synchronous and for one thread at a time.

A row per message, in the order they came, and an index that lists them by key, priority and number; so the next ones of
a key are a range of the index, and all counts can be read from it alone. Rows of a transaction are bound in few
statements: each statement gives up the interpreter's lock and has to win it back from a busy event loop.

The log is written and synced with every transaction (WAL, ``synchronous=FULL``), so that what is committed survives a
loss of power. It is copied into the database when there are some megabytes of it, by whoever calls
:meth:`Database.checkpoint`: not within a commit, which somebody waits for.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from sidecar.amqp.spool.dead import DeadLetter, DeadTable
from sidecar.amqp.spool.errors import SpoolError
from sidecar.amqp.spool.files import Files, identity
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.record import BadRecordError, pack, unpack

logger = logging.getLogger("sidecar.amqp.spool")

#: The schema that this version writes; files of a later one are refused.
SCHEMA: Final = 1
#: Says in the file's header whose it is.
APPLICATION: Final = 0x53435350

_PAGE: Final = 8192
#: The page cache, KiB, and how much of the log stays allocated when it is empty: what is removed can then be written
#: down on a full disk, too.
_CACHE: Final = 2048
_LOG_KEPT: Final = 16 << 20
#: Rows bound in one statement.
_CHUNK: Final = 32
#: Numbers are taken from the file in blocks, so that none is used twice even if what had it is gone.
_BLOCK: Final = 1 << 16
#: Free pages that are left in the file, and how many are given back at a time.
_FREE_KEPT: Final = (1 << 20) // _PAGE
_FREE_STEP: Final = (2 << 20) // _PAGE

_TABLES: Final = """
CREATE TABLE key (id INTEGER PRIMARY KEY, vhost BLOB NOT NULL, lane BLOB NOT NULL, UNIQUE (vhost, lane));
CREATE TABLE message (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL, rank INTEGER NOT NULL, size INTEGER NOT NULL,
    attempts INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX message_order ON message (key, rank, id, size);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, died REAL NOT NULL, reason TEXT NOT NULL, code INTEGER NOT NULL, exchange BLOB NOT NULL,
    size INTEGER NOT NULL, attempts INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX dead_order ON dead (reason, exchange, id, size);
CREATE TABLE number (next INTEGER NOT NULL);
CREATE TABLE probe (data BLOB);
INSERT INTO number VALUES (1);
"""

#: By their number.
_INSERT: Final = ["INSERT INTO message VALUES " + ",".join(["(?,?,?,?,?,?)"] * rows) for rows in range(_CHUNK + 1)]
_DELETE: Final = "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))"
_TRIED: Final = "UPDATE message SET attempts = ? WHERE id = ?"
_FETCH: Final = (
    "SELECT id, attempts, size, data FROM message WHERE key = ? AND (rank, id) > (?, ?) ORDER BY rank, id LIMIT ?"
)

#: The last rank is that of priority 0.
_LOWEST: Final = 255

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})

KeyName = tuple[str, str]
#: Of one key, how many messages and bytes.
Count = list[int]


#: What SQLite and the system raise. Damage can make SQLite's own error texts unreadable.
FAILURES: Final = (sqlite3.Error, OSError, UnicodeDecodeError)


class NotADatabase(sqlite3.DatabaseError):
    """The file has not even the beginning of a database."""


class Death:
    """A message on its way to the dead letters. ``stored``: out of the spool, which it need not have been in."""

    __slots__ = ("code", "died", "message", "reason", "stored")

    def __init__(self, message: SpooledMessage, reason: str, code: int, died: float) -> None:
        self.message = message
        self.reason = reason
        self.code = code
        self.died = died
        self.stored = message.id != 0


class BadRow:
    """A message that is not what was written; ``size`` is what it counted as."""

    __slots__ = ("id", "key", "size")

    def __init__(self, number: int, key: KeyName, size: int) -> None:
        self.id = number
        self.key = key
        self.size = size


class Changes:
    """What one transaction does beside storing messages."""

    __slots__ = ("bad", "dead", "removed", "tried")

    def __init__(self) -> None:
        self.removed: list[SpooledMessage] = []
        self.tried: list[SpooledMessage] = []
        self.dead: list[Death] = []
        self.bad: list[BadRow] = []

    def __bool__(self) -> bool:
        return bool(self.removed or self.tried or self.dead or self.bad)


class Database:
    """One upstream's spool on the disk. ``max_dead`` bounds the dead letters, bytes: the oldest go first, which is
    logged and counted in ``dropped``. Beside what each method says, all raise ``sqlite3.Error`` or ``OSError`` when the
    file cannot be used; then nothing of what was asked for has been done."""

    def __init__(
        self, folder: Path, name: str, max_dead: int = 1 << 62, clock_wall: Callable[[], float] = time.time
    ) -> None:
        self.files = Files(folder, name)
        self._clock = clock_wall
        self._max_dead = max_dead
        self._sql: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._key_ids: dict[KeyName, int] = {}
        self._next = 0
        self._next_block = 0
        #: Messages by key, as committed.
        self.counts: dict[KeyName, Count] = {}
        #: Messages that were lost to damage, or set aside because of it, since this object was made.
        self.corrupt = 0
        #: Dead letters that had to go for newer ones.
        self.dropped = 0
        #: Bytes of log that are not yet in the database, about.
        self.behind = 0
        self.dead = DeadTable()

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make or read the file; a damaged one is salvaged. Raises :class:`SpoolError`, with a text for
        an operator, when it is of no use."""
        try:
            self.connect()
        except FAILURES as error:
            self.close()
            raise SpoolError(f"{self.files.base}: {describe(error)}") from error
        except SpoolError:
            self.close()
            raise

    def connect(self) -> None:
        """Open the file, which nobody else has. Raises :class:`SpoolError` when it is somebody else's or a later
        version's; such a file is not touched."""
        self.disconnect()
        self.files.prepare()
        self.files.replace(self._clock())
        self.files.create()
        try:
            self._check_header()
            self._connect()
        except FAILURES as error:
            if not damaged(error):
                raise
            self.salvage(error)

    def _check_header(self) -> None:
        """Whose it is, and of which version (SQLite's file format, §1.3), before SQLite writes to it."""
        header = self.files.header()
        if not header:
            return
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise NotADatabase("file is not a database")
        if int.from_bytes(header[68:72], "big") != APPLICATION:
            raise SpoolError(f"{self.files.base} is not a spool but somebody else's database")
        self._check_version(int.from_bytes(header[60:64], "big"))

    def _check_version(self, version: int) -> None:
        if version > SCHEMA:
            raise SpoolError(
                f"{self.files.base} was written by a later version of the sidecar: "
                f"its schema is {version}, and this one knows {SCHEMA}"
            )
        if version < SCHEMA:
            raise SpoolError(f"{self.files.base} is of an unknown version: its schema is {version}")

    def _connect(self) -> None:
        sql = connect(self.files.base)
        self._sql = sql
        try:
            self._check_version(self._number("PRAGMA user_version"))
            self._load(sql)
        except BaseException:
            sql.close()
            self._sql = None
            raise
        self._file = identity(self.files.base)
        self._log = identity(self.files.wal)

    def _load(self, sql: sqlite3.Connection) -> None:
        """Read the counts, and take a block of numbers."""
        # This write shows that it can be written, and makes the log, which is watched from now on.
        sql.execute("UPDATE number SET next = next + 1")
        self._next = self._next_block = self._number("SELECT next FROM number")
        sql.execute("DELETE FROM key WHERE id NOT IN (SELECT DISTINCT key FROM message INDEXED BY message_order)")
        names: dict[int, KeyName] = {}
        for number, vhost, lane in sql.execute("SELECT id, vhost, lane FROM key"):
            names[number] = _text(vhost), _text(lane)
        self._key_ids = {name: number for number, name in names.items()}
        self.recount()

    def recount(self) -> None:
        """Count again what is in the file."""
        sql = self._open()
        names = {number: name for name, number in self._key_ids.items()}
        self.counts = {}
        for number, count, size in sql.execute(
            "SELECT key, count(*), sum(size) FROM message INDEXED BY message_order GROUP BY key"
        ):
            if number not in names:
                raise sqlite3.DatabaseError("messages of an unknown key")
            self.counts[names[number]] = [count, size]
        self.dead.load(sql)

    def disconnect(self) -> None:
        """Close the file; the lock stays."""
        if self._sql is not None:
            sql, self._sql = self._sql, None
            try:
                sql.close()
            except sqlite3.Error as error:
                logger.warning("the spool's file could not be closed well: %s", describe(error))

    def close(self) -> None:
        """Close the file and give up the lock."""
        self.disconnect()
        self.files.release()

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._sql is not None

    def moved(self) -> bool:
        """Whether the file that is open is no longer the one that its name leads to: it was deleted or replaced, and
        what is written goes where nobody will find it."""
        if self._file is None or identity(self.files.base) != self._file:
            return True
        log = identity(self.files.wal)
        if self._log is None:
            self._log = log  # SQLite makes it with the first write
        return log != self._log

    # -- messages ------------------------------------------------------------------------------------------------------

    def write(self, puts: Sequence[SpooledMessage], changes: Changes) -> None:
        """All of it in one transaction, which is on the disk when this returns; the messages then have their ids."""
        try:
            with _Transaction(self) as sql:
                self._reserve(sql, len(puts) + 2 * len(changes.dead) + len(changes.bad))
                self._insert(sql, puts)
                self._change(sql, changes)
        except BaseException:
            for message in puts:
                message.id = 0
            raise
        self._count(puts, changes)

    def _insert(self, sql: sqlite3.Connection, puts: Sequence[SpooledMessage]) -> None:
        for start in range(0, len(puts), _CHUNK):
            rows: list[object] = []
            chunk = puts[start : start + _CHUNK]
            for message in chunk:
                message.id = self._take_number()
                rows += new_row(sql, self._key_ids, message)
            sql.execute(_INSERT[len(chunk)], rows)

    def _change(self, sql: sqlite3.Connection, changes: Changes) -> None:
        if changes.tried:
            sql.executemany(_TRIED, {message.id: (message.attempts, message.id) for message in changes.tried}.values())
        for death in changes.dead:
            message = death.message
            number = self._take_number()
            if death.stored:
                self.dead.move(sql, number, message.id, death.died, death.reason, death.code, _blob(message.exchange))
            else:
                message.id = self._take_number()
                self.dead.add(
                    sql, number, death.died, death.reason, death.code, _blob(message.exchange), message.size,
                    message.attempts, pack(message),
                )  # fmt: skip
        for bad in changes.bad:
            self.dead.move(sql, self._take_number(), bad.id, self._clock(), "corrupt", 0, b"")
        if changes.dead or changes.bad:
            gone = self.dead.bound(sql, self._max_dead)
            if gone:
                self.dropped += gone
                logger.warning("dead letters had to go for newer ones", extra={"dropped": gone})
        if changes.removed:
            sql.execute(_DELETE, (_ids(changes.removed),))

    def _count(self, puts: Sequence[SpooledMessage], changes: Changes) -> None:
        self.behind += _PAGE + count_changes(self.counts, puts, changes)
        self.corrupt += len(changes.bad)

    def fetch(
        self, key: KeyName, after: tuple[int, int] | None, limit: int, limit_bytes: int
    ) -> tuple[list[SpooledMessage], list[BadRow]]:
        """The next messages of a key behind that place, at most so many and (but for the first) so many bytes; and
        those in between that are not what was written."""
        sql = self._open()
        messages: list[SpooledMessage] = []
        bad: list[BadRow] = []
        number = self._key_ids.get(key)
        if number is None:
            return messages, bad
        rank, last = (-1, 0) if after is None else (_LOWEST + after[0], after[1])
        rows = sql.execute(_FETCH, (number, rank, last, limit))
        try:
            for row, attempts, size, data in rows:
                limit_bytes -= size
                if limit_bytes < 0 and messages:
                    break
                try:
                    message = unpack(data)
                    if message.id != row:
                        raise BadRecordError("a record of another message")
                except BadRecordError:
                    bad.append(BadRow(row, key, size))
                    continue
                message.attempts = attempts
                messages.append(message)
        finally:
            rows.close()
        return messages, bad

    # -- dead letters --------------------------------------------------------------------------------------------------

    def list_dead(self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None) -> list[DeadLetter]:
        """The dead letters behind number ``after``, oldest first; of that reason and exchange, if given. Fewer than
        ``limit`` when they are large; none at all only at the end."""
        return self.dead.find(self._open(), limit, after, reason, None if exchange is None else _blob(exchange))

    def get_dead(self, number: int) -> DeadLetter | None:
        """One of them."""
        return self.dead.get(self._open(), number)

    def drop_dead(self, numbers: Sequence[int]) -> int:
        """Forget them; how many there were."""
        with _Transaction(self) as sql:
            return self.dead.drop(sql, numbers)

    def expire_dead(self, before: float) -> int:
        """Forget those that died before then, at most a thousand at a time; how many there were."""
        with _Transaction(self) as sql:
            return self.dead.drop(sql, self.dead.older(sql, before, 1000))

    def replay_dead(self, numbers: Sequence[int]) -> list[SpooledMessage]:
        """Put them behind the other messages of their keys, as if they had come now; those that were, without what was
        in them. What is no message any more stays."""
        now = self._clock()
        messages: list[SpooledMessage] = []
        with _Transaction(self) as sql:
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
                self._insert(sql, [message])
                self.dead.drop(sql, [number])
                message.header = message.body = b""  # there may be many, and large ones
                messages.append(message)
        self._count(messages, Changes())
        return messages

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Find out whether a message's worth can be written, and is on the disk."""
        sql = self._open()
        try:
            sql.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            sql.execute("DELETE FROM probe")
        except sqlite3.Error:
            roll_back(sql)
            raise

    def checkpoint(self) -> None:
        """Copy the log into the database, so that the log can begin anew."""
        self.behind = 0
        self._open().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def shrink(self) -> bool:
        """Give some unused pages back to the file system; whether there are more."""
        sql = self._open()
        free = self._number("PRAGMA freelist_count")
        # As long as messages come and go, free pages are about to be used.
        if free <= _FREE_KEPT or free < self._number("PRAGMA page_count") // 4:
            return False
        step = min(_FREE_STEP, free - _FREE_KEPT)
        # Each step of this statement frees one page; a script makes all of them at once.
        sql.executescript(f"PRAGMA incremental_vacuum({step})")
        self.behind += step * _PAGE // 2
        return True

    def salvage(self, cause: Exception | None) -> None:
        """Copy all that can be read into a new file, which takes this one's place; the old one is kept beside it.
        ``cause`` None: the file was deleted or replaced, but is still open."""
        from sidecar.amqp.spool.salvage import copy

        files = self.files
        before = sum(count for count, _ in self.counts.values())
        logger.error(
            "the spool's file is %s; what is in it goes into a new one",
            f"damaged ({describe(cause)})" if cause is not None else "gone",
            extra={"file": str(files.base)},
        )
        files.prepare()
        files.discard_growing()
        reader = self._sql
        if reader is None and not isinstance(cause, NotADatabase):
            try:
                reader = self._sql = connect(files.base)
            except FAILURES as error:
                if not damaged(error):
                    raise
        if reader is not None:
            roll_back(reader)
        lost = copy(reader, files.growing, max(self._next, self._next_block))
        files.growing.rename(files.whole)
        self.disconnect()
        aside = files.replace(self._clock())
        self._connect()
        found = sum(count for count, _ in self.counts.values())
        self.corrupt += max(lost, before - found)
        logger.error(
            "the spool has a new file",
            extra={
                "file": str(files.base),
                "kept": "" if aside is None else str(aside),
                "messages": found,
                "lost": self.corrupt,
            },
        )

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._sql is None:
            raise sqlite3.OperationalError("the spool's file is not open")
        return self._sql

    def _number(self, statement: str) -> int:
        row = self._open().execute(statement).fetchone()
        if row is None:
            raise sqlite3.DatabaseError("a row is missing")
        return int(row[0])

    def _reserve(self, sql: sqlite3.Connection, count: int) -> None:
        """So many numbers can be taken without asking the file again."""
        if self._next + count > self._next_block:
            self._next_block = self._next + count + _BLOCK
            sql.execute("UPDATE number SET next = ?", (self._next_block,))

    def _take_number(self) -> int:
        number = self._next
        self._next = number + 1
        return number


class _Transaction:
    """A transaction: committed at the end, or as if it had not been."""

    __slots__ = ("_database", "_keys", "_next", "_next_block", "_sql")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database._open()
        self._keys = len(database._key_ids)
        self._next = database._next
        self._next_block = database._next_block

    def __enter__(self) -> sqlite3.Connection:
        self._sql.execute("BEGIN IMMEDIATE")
        return self._sql

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            try:
                self._sql.execute("COMMIT")
                return
            except sqlite3.Error:
                self._undo()
                raise
        self._undo()

    def _undo(self) -> None:
        roll_back(self._sql)
        database = self._database
        database._next = self._next
        database._next_block = self._next_block
        if len(database._key_ids) > self._keys:
            database._key_ids = dict(list(database._key_ids.items())[: self._keys])
        database.dead.load(self._sql)


def roll_back(sql: sqlite3.Connection) -> None:
    """End a transaction that failed, unless SQLite has done so itself."""
    try:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
    except sqlite3.Error as error:
        logger.debug("rollback: %s", error)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a database, for one process alone, with the settings that last as long as it does; an empty file
    becomes a spool."""
    sql = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        # Alone, SQLite needs no shared memory file beside the log.
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        sql.execute("PRAGMA trusted_schema = OFF")
        sql.execute("PRAGMA cell_size_check = ON")
        sql.execute(f"PRAGMA cache_size = -{_CACHE}")
        if not sql.execute("PRAGMA schema_version").fetchone()[0]:
            # Before there is a log, so that the file's own header says whose it is from the beginning.
            sql.execute(f"PRAGMA page_size = {_PAGE}")
            sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
            sql.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} COMMIT;"
            )
        sql.execute("PRAGMA journal_mode = WAL").fetchall()
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA wal_autocheckpoint = 0")
        sql.execute(f"PRAGMA journal_size_limit = {_LOG_KEPT}")
    except BaseException:
        sql.close()
        raise
    return sql


def new_row(sql: sqlite3.Connection, keys: dict[KeyName, int], message: SpooledMessage) -> tuple[object, ...]:
    """The columns of a message that has its id; its key is made when it is a new one."""
    name = message.vhost, message.lane
    key = keys.get(name)
    if key is None:
        key = sql.execute("INSERT INTO key (vhost, lane) VALUES (?, ?)", (_blob(name[0]), _blob(name[1]))).lastrowid
        assert key is not None
        keys[name] = key
    return message.id, key, _LOWEST - message.priority, message.size, message.attempts, pack(message)


def damaged(error: BaseException) -> bool:
    """Whether the file is not what SQLite has written."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, UnicodeDecodeError | NotADatabase) or type(error) is sqlite3.DatabaseError
    return code & 0xFF in _DAMAGE


def disk_full(error: BaseException) -> bool:
    """Whether there is no space; the file can be used all the same, and the transaction has left nothing behind."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def refused(error: BaseException) -> bool:
    """Whether it is what was to be written that is wrong, not the file."""
    if isinstance(error, sqlite3.Error):
        return (
            isinstance(error, sqlite3.DataError | sqlite3.InterfaceError | sqlite3.ProgrammingError)
            or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_TOOBIG
        )
    return isinstance(error, ValueError | OverflowError | TypeError | struct.error) and not isinstance(
        error, UnicodeDecodeError
    )


def describe(error: BaseException) -> str:
    """What is wrong, for people."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, SpoolError):
        return error.text
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} ({name})" if name else str(error)


def count_changes(counts: dict[KeyName, Count], puts: Iterable[SpooledMessage], changes: Changes) -> int:
    """Let ``counts`` follow a transaction. About how many bytes it has written."""
    written = 0
    for message in puts:
        written += message.size
        count = counts.get((message.vhost, message.lane))
        if count is None:
            count = counts[(message.vhost, message.lane)] = [0, 0]
        count[0] += 1
        count[1] += message.size
    for message in changes.removed:
        written += message.size
        _less(counts, (message.vhost, message.lane), message.size)
    for death in changes.dead:
        written += 2 * death.message.size
        if death.stored:
            _less(counts, death.message.key, death.message.size)
    for bad in changes.bad:
        _less(counts, bad.key, bad.size)
    return written


def _less(counts: dict[KeyName, Count], key: KeyName, size: int) -> None:
    count = counts.get(key)
    if count is not None:
        count[0] -= 1
        count[1] -= size
        if count[0] <= 0:
            del counts[key]


def _ids(messages: Iterable[SpooledMessage]) -> str:
    return json.dumps([message.id for message in messages])


def _blob(text: str) -> bytes:
    """Names may hold what is no text; SQLite's texts may not."""
    return text.encode("utf-8", "surrogateescape")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogateescape")
