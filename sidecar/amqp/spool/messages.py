"""The messages' table: what is written to it, and read from it, in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from sidecar.amqp.spool.codec import BadRecordError, pack, unpack
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import BadRow, Count, StreamName
from sidecar.storage.sqlite import blob, text

#: Rows bound in one statement, at the most.
_ROWS: Final = 32
_COLUMNS: Final = 6
#: A statement keeps what was bound to it last; so it is given no more than that, bytes, and what is larger is written
#: behind it.
_LARGE: Final = 64 << 10

#: By how many rows it has, which is a power of two: there should not be too many such statements.
_INSERT: Final = {
    rows: "INSERT INTO message VALUES " + ",".join(["(?,?,?,?,?,?)"] * rows) for rows in (1, 2, 4, 8, 16, 32)
}
_INSERT_LARGE: Final = "INSERT INTO message VALUES (?,?,?,?,?,zeroblob(?))"
_FETCH: Final = (
    "SELECT id, attempts, size, data FROM message WHERE key = ? AND (rank, id) > (?, ?) ORDER BY rank, id LIMIT ?"
)

#: The last rank is that of priority 0.
_LOWEST: Final = 255

#: Number, stream, rank, size, attempts, record.
Row = tuple[int, int, int, int, int, bytes]


class MessageTable:
    """Messages, and the streams that they are of. ``counts`` is how many there are by stream, as committed."""

    __slots__ = ("_streams", "counts")

    def __init__(self) -> None:
        self.counts: dict[StreamName, Count] = {}
        self._streams: dict[StreamName, int] = {}

    @property
    def count(self) -> int:
        """How many messages there are."""
        return sum(count for count, _ in self.counts.values())

    @property
    def streams(self) -> int:
        """How many streams are known."""
        return len(self._streams)

    def load(self, sql: sqlite3.Connection) -> None:
        """Read the streams, and count what is there."""
        sql.execute("DELETE FROM key WHERE id NOT IN (SELECT DISTINCT key FROM message INDEXED BY message_order)")
        self._streams = {}
        for stream, vhost, lane in sql.execute("SELECT id, vhost, lane FROM key"):
            self._streams[text(vhost), text(lane)] = stream
        self.recount(sql)

    def recount(self, sql: sqlite3.Connection) -> None:
        """Count again what is there."""
        names = {stream: name for name, stream in self._streams.items()}
        self.counts = {}
        for stream, count, size in sql.execute(
            "SELECT key, count(*), sum(size) FROM message INDEXED BY message_order GROUP BY key"
        ):
            if stream not in names:
                raise sqlite3.DatabaseError("messages of an unknown key")
            self.counts[names[stream]] = [count, size]

    def forget(self, streams: int) -> None:
        """There are only so many streams after all: those that came later were rolled back."""
        if len(self._streams) > streams:
            self._streams = dict(list(self._streams.items())[:streams])

    def insert(self, sql: sqlite3.Connection, messages: Sequence[SpooledMessage]) -> None:
        """Write messages, which have their numbers."""
        rows: list[object] = []
        size = 0
        for message in messages:
            row = self.row(sql, message)
            if message.size > _LARGE:
                _insert_large(sql, row)
                continue
            rows += row
            size += message.size
            if size > _LARGE or len(rows) == _ROWS * _COLUMNS:
                _insert_rows(sql, rows)
                rows = []
                size = 0
        _insert_rows(sql, rows)

    def row(self, sql: sqlite3.Connection, message: SpooledMessage) -> Row:
        """The columns of a message that has its number; its stream is made when it is a new one."""
        name = message.vhost, message.lane
        stream = self._streams.get(name)
        if stream is None:
            stream = sql.execute(
                "INSERT INTO key (vhost, lane) VALUES (?, ?)", (blob(name[0]), blob(name[1]))
            ).lastrowid
            assert stream is not None
            self._streams[name] = stream
        return message.id, stream, _LOWEST - message.priority, message.size, message.attempts, pack(message)

    def fetch(
        self, sql: sqlite3.Connection, stream: StreamName, after: tuple[int, int] | None, limit: int, limit_bytes: int
    ) -> tuple[list[SpooledMessage], list[BadRow]]:
        """See :meth:`Database.fetch`."""
        messages: list[SpooledMessage] = []
        bad: list[BadRow] = []
        number = self._streams.get(stream)
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
                    bad.append(BadRow(row, stream, size))
                    continue
                message.attempts = attempts
                messages.append(message)
        finally:
            rows.close()
        return messages, bad


def _insert_rows(sql: sqlite3.Connection, rows: list[object]) -> None:
    while rows:
        step = 1 << (len(rows) // _COLUMNS).bit_length() - 1
        sql.execute(_INSERT[step], rows[: step * _COLUMNS])
        del rows[: step * _COLUMNS]


def _insert_large(sql: sqlite3.Connection, row: Row) -> None:
    data = row[5]
    sql.execute(_INSERT_LARGE, (*row[:5], len(data)))
    with sql.blobopen("message", "data", row[0]) as opened:
        opened.write(data)
