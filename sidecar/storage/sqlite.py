"""SQLite's settings: one process, a log that is synced with every transaction."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("sidecar.disk")


@dataclass(frozen=True, slots=True)
class Format:
    """What a kind of database is like. ``what`` it is, for people ("a spool"); ``application`` says in the file's
    header whose it is, and ``schema`` is the version of ``tables``. The others are in bytes: ``log_kept`` is how much
    of the log stays allocated when it is empty, so that it can begin anew on a full disk, too. For when the disk is
    full, the log has ``log_room`` at least, and ``room`` is set aside beside it."""

    what: str
    application: int
    schema: int
    tables: str
    page: int
    cache: int
    log_kept: int
    log_room: int
    room: int


def connect(path: Path, form: Format) -> sqlite3.Connection:
    """A connection to a database, for one process alone, with the settings that last as long as it does; an empty file
    becomes one of that format."""
    sql = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        # Alone, SQLite needs no shared memory file beside the log.
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        sql.execute("PRAGMA trusted_schema = OFF")
        sql.execute("PRAGMA cell_size_check = ON")
        sql.execute(f"PRAGMA cache_size = -{form.cache >> 10}")
        if not sql.execute("PRAGMA schema_version").fetchone()[0]:
            # Before there is a log, so that the file's own header says whose it is from the beginning; and all of it at
            # once, as auto_vacuum alone would make a database without an owner.
            sql.execute(f"PRAGMA page_size = {form.page}")
            sql.executescript(
                f"BEGIN; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {form.application}; "
                f"PRAGMA user_version = {form.schema}; {form.tables} COMMIT;"
            )
        sql.execute("PRAGMA journal_mode = WAL").fetchall()
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA wal_autocheckpoint = 0")
        sql.execute(f"PRAGMA journal_size_limit = {form.log_kept}")
    except BaseException:
        sql.close()
        raise
    return sql


def scalar(sql: sqlite3.Connection, statement: str) -> int:
    """Return the one number that a statement gives."""
    row = sql.execute(statement).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("a row is missing")
    return int(row[0])


def roll_back(sql: sqlite3.Connection) -> None:
    """Roll back a failed transaction, unless SQLite has done so itself."""
    try:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
    except sqlite3.Error as error:
        logger.debug("rollback: %s", error)


def blob(text: str) -> bytes:
    """Return a name as it is stored. Names may hold bytes that are no text; SQLite's texts may not."""
    return text.encode("utf-8", "surrogateescape")


def text(blob: bytes) -> str:
    """Return the name that was stored."""
    return blob.decode("utf-8", "surrogateescape")
