"""Takes what can be read out of a damaged database, row by row."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecar.amqp.spool.database import FAILURES, connect, describe, new_row
from sidecar.amqp.spool.record import BadRecordError, unpack

logger = logging.getLogger("sidecar.amqp.spool")

#: Rows of one transaction; and beyond which number there are none.
_BATCH: Final = 500
_END: Final = 1 << 62

#: Numbers that may have been given to messages which cannot be read any more.
_UNSEEN: Final = 1 << 20


def copy(reader: sqlite3.Connection | None, path: Path, number: int) -> int:
    """All rows of ``reader`` that can be read, in a new database at ``path``, which is on the disk and closed when this
    returns. Messages that are not what was written become dead letters. ``number`` is one that no message has had yet,
    as far as is known. How many messages are known to be lost or set aside. Raises ``sqlite3.Error`` or ``OSError``
    when the new one cannot be written."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(file)
    writer = connect(path)
    lost = 0
    try:
        highest = number
        if reader is not None:
            expected = _count(reader)
            copied = 0
            keys: dict[tuple[str, str], int] = {}
            writer.execute("BEGIN")
            for row in _rows(reader, "dead", "id, died, reason, code, exchange, size, attempts, data"):
                writer.execute("INSERT OR IGNORE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                highest = max(highest, int(str(row[0])) + 1)
            for row in _rows(reader, "message", "id, attempts, data"):
                highest = max(highest, int(str(row[0])) + 1)
                if _copy_message(writer, keys, row):
                    copied += 1
                else:
                    lost += 1
                if not (copied + lost) % _BATCH:
                    writer.execute("COMMIT")
                    writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    writer.execute("BEGIN")
            writer.execute("COMMIT")
            lost += max(0, expected - copied - lost)
            highest = max(highest, _next(reader))
        writer.execute("UPDATE number SET next = ?", (highest + _UNSEEN,))
    finally:
        writer.close()
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    return lost


def _copy_message(writer: sqlite3.Connection, keys: dict[tuple[str, str], int], row: tuple[object, ...]) -> bool:
    number, attempts, data = row
    try:
        if not isinstance(data, bytes) or not isinstance(attempts, int):
            raise BadRecordError("a row of other types")
        message = unpack(data)
        if message.id != number:
            raise BadRecordError("a record of another message")
    except BadRecordError:
        writer.execute(
            "INSERT INTO dead SELECT coalesce(max(id), 0) + 1, 0, 'corrupt', 0, x'', ?, 0, ? FROM dead",
            (len(data) if isinstance(data, bytes) else 0, data if isinstance(data, bytes) else b""),
        )
        return False
    message.attempts = attempts
    writer.execute("INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?, ?, ?)", new_row(writer, keys, message))
    return True


def _rows(reader: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[object, ...]]:
    """The rows that can be read, by number. Behind one that cannot, the next that can is searched for: in steps that
    double, then by halving the last step, as what cannot be read is a page or more and mostly one piece."""
    last = -1
    while True:
        try:
            for row in reader.execute(f"SELECT {columns} FROM {table} NOT INDEXED WHERE id > ? ORDER BY id", (last,)):
                last = row[0]
                yield row
            return
        except FAILURES as error:
            logger.warning("rows of a damaged spool cannot be read: %s", describe(error), extra={"behind": last})
        bad = last + 1
        step = 1
        while not _readable(reader, table, columns, bad + step):
            step *= 2
            if bad + step > _END:
                return
        low, high = bad + step // 2, bad + step
        while high - low > 1:
            middle = (low + high) // 2
            if _readable(reader, table, columns, middle):
                high = middle
            else:
                low = middle
        last = high - 1


def _readable(reader: sqlite3.Connection, table: str, columns: str, number: int) -> bool:
    """Whether the row of that number, or the first behind it, can be read, or there is none."""
    try:
        reader.execute(
            f"SELECT {columns} FROM {table} NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1", (number,)
        ).fetchall()
    except FAILURES:
        return False
    return True


def _count(reader: sqlite3.Connection) -> int:
    """How many messages the index lists; 0 when it cannot be read."""
    try:
        return int(reader.execute("SELECT count(*) FROM message INDEXED BY message_order").fetchone()[0])
    except FAILURES:
        return 0


def _next(reader: sqlite3.Connection) -> int:
    try:
        row = reader.execute("SELECT next FROM number").fetchone()
        return int(row[0]) if row else 0
    except (*FAILURES, ValueError, TypeError):
        return 0
