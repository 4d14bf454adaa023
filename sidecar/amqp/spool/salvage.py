"""Takes over what can be read of a damaged spool."""

from __future__ import annotations

import sqlite3
from typing import Final

from sidecar.amqp.spool.codec import BadRecordError, unpack
from sidecar.amqp.spool.dead_letters import has_text
from sidecar.amqp.spool.messages import MessageTable
from sidecar.storage.faults import FAILURES
from sidecar.storage.salvage import count, rows

#: Rows of one transaction.
_BATCH: Final = 500
#: Numbers that may have been given to messages which cannot be read any more.
_UNSEEN: Final = 1 << 20


def copy(reader: sqlite3.Connection | None, writer: sqlite3.Connection, number: int) -> int:
    """All rows of ``reader`` that can be read, in a new database. Messages that are not what was written become dead
    letters. ``number`` is one that no message has had yet, as far as is known. How many messages are known to be lost
    or set aside. Raises ``sqlite3.Error`` or ``OSError`` when the new one cannot be written."""
    highest = number
    lost = 0
    if reader is not None:
        expected = count(reader, "message", "message_order")
        copied = 0
        table = MessageTable()
        writer.execute("BEGIN")
        for row in rows(reader, "dead", f"id, died, reason, code, exchange, size, attempts, data, {_text(reader)}"):
            writer.execute("INSERT OR IGNORE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            highest = max(highest, row[0] + 1)
        for row in rows(reader, "message", "id, attempts, data"):
            highest = max(highest, row[0] + 1)
            if _copy_message(writer, table, row):
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
    return lost


def _copy_message(writer: sqlite3.Connection, table: MessageTable, row: tuple[object, ...]) -> bool:
    number, attempts, data = row
    try:
        if not isinstance(data, bytes) or not isinstance(attempts, int):
            raise BadRecordError("a row of other types")
        message = unpack(data)
        if message.id != number:
            raise BadRecordError("a record of another message")
    except BadRecordError:
        writer.execute(
            "INSERT INTO dead SELECT coalesce(max(id), 0) + 1, 0, 'corrupt', 0, x'', ?, 0, ?, '' FROM dead",
            (len(data) if isinstance(data, bytes) else 0, data if isinstance(data, bytes) else b""),
        )
        return False
    message.attempts = attempts
    writer.execute("INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?, ?, ?)", table.row(writer, message))
    return True


def _text(reader: sqlite3.Connection) -> str:
    """The dead letters' last column."""
    try:
        return "text" if has_text(reader) else "''"
    except FAILURES:
        return "text"


def _next(reader: sqlite3.Connection) -> int:
    try:
        row = reader.execute("SELECT next FROM number").fetchone()
        return int(row[0]) if row else 0
    except (*FAILURES, ValueError, TypeError):
        return 0
