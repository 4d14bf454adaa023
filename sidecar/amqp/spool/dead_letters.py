"""Dead letters: messages that nobody will send any more, with the reason, until somebody looks at them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from sidecar.amqp.spool.codec import BadRecordError, unpack
from sidecar.amqp.spool.message import SpooledMessage

#: Reasons and the broker's texts are cut there, characters.
_LONGEST = 500
#: A list ends with the one that makes it larger than this, bytes.
_LIST_BYTES = 4 << 20


class DeadLetter:
    """One of them. ``id`` counts them in the order of their deaths (its message had another); ``died`` is Unix time;
    ``code`` and ``text`` are the broker's, 0 and empty when it was not the broker; ``data`` is the record, and
    ``message`` is None when that is not what was written."""

    __slots__ = ("code", "data", "died", "id", "message", "reason", "size", "text")

    def __init__(
        self, number: int, died: float, reason: str, code: int, size: int, attempts: int, data: bytes, text: str = ""
    ) -> None:
        self.id = number
        self.died = died
        self.reason = reason
        self.code = code
        self.size = size
        self.data = data
        self.text = text
        self.message: SpooledMessage | None = None
        try:
            self.message = unpack(data)
            self.message.attempts = attempts
        except BadRecordError:
            pass


_SELECT = "SELECT id, died, reason, code, size, attempts, data, text FROM dead "


class DeadLetterTable:
    """Their table. ``reasons`` is how many there are of each; all are counted as soon as they change, and to be loaded
    again when the transaction fails."""

    __slots__ = ("bytes", "count", "reasons")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.reasons: dict[str, int] = {}

    def upgrade(self, sql: sqlite3.Connection) -> None:
        """Files that were made before there was a column for texts get one."""
        if not has_text(sql):
            sql.execute("ALTER TABLE dead ADD COLUMN text TEXT NOT NULL DEFAULT ''")

    def load(self, sql: sqlite3.Connection) -> None:
        """Count what is there."""
        self.count = self.bytes = 0
        self.reasons = {}
        for reason, count, size in sql.execute(
            "SELECT reason, count(*), sum(size) FROM dead INDEXED BY dead_order GROUP BY reason"
        ):
            self.reasons[reason] = count
            self.count += count
            self.bytes += size

    def add(
        self, sql: sqlite3.Connection, number: int, died: float, reason: str, code: int, exchange: bytes, size: int,
        attempts: int, data: bytes, text: str,
    ) -> None:  # fmt: skip
        """One that was not in the spool."""
        reason = _clean(reason)
        # A statement keeps what was bound to it last, hence not the data.
        sql.execute(
            "INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, zeroblob(?), ?)",
            (number, died, reason, code, exchange, size, attempts, len(data), _clean(text)),
        )
        with sql.blobopen("dead", "data", number) as opened:
            opened.write(data)
        self._counted(reason, size)

    def move(
        self, sql: sqlite3.Connection, number: int, message: int, died: float, reason: str, code: int, exchange: bytes,
        text: str = "",
    ) -> bool:  # fmt: skip
        """One of the spool's messages. Whether there is one of that number; else nothing happens."""
        row = sql.execute("SELECT size, attempts, data FROM message WHERE id = ?", (message,)).fetchone()
        if row is None:
            return False
        # In this order, so that it needs no other room than it had.
        sql.execute("DELETE FROM message WHERE id = ?", (message,))
        size, attempts, data = row
        self.add(sql, number, died, reason, code, exchange, size, attempts, data, text)
        return True

    def find(
        self, sql: sqlite3.Connection, limit: int, after: int, reason: str, exchange: bytes | None
    ) -> list[DeadLetter]:
        """The next ones behind ``after``; of a reason and an exchange, if given. Fewer than ``limit`` when they are
        large; none at all only at the end."""
        where = "WHERE id > ?"
        values: list[object] = [after]
        if reason:
            where += " AND reason = ?"
            values.append(reason)
        if exchange is not None:
            where += " AND exchange = ?"
            values.append(exchange)
        found: list[DeadLetter] = []
        size = 0
        for row in sql.execute(f"{_SELECT}{where} ORDER BY id LIMIT ?", (*values, limit)):
            found.append(DeadLetter(*row))
            size += found[-1].size
            if size > _LIST_BYTES:
                break
        return found

    def get(self, sql: sqlite3.Connection, number: int) -> DeadLetter | None:
        """One of them."""
        row = sql.execute(f"{_SELECT}WHERE id = ?", (number,)).fetchone()
        return None if row is None else DeadLetter(*row)

    def older(self, sql: sqlite3.Connection, before: float, limit: int) -> list[int]:
        """The oldest ones, as long as they died before then."""
        found: list[int] = []
        for number, died in sql.execute("SELECT id, died FROM dead ORDER BY id LIMIT ?", (limit,)):
            if died >= before:
                break
            found.append(number)
        return found

    def bound(self, sql: sqlite3.Connection, limit: int) -> int:
        """Drop the oldest until there are at most ``limit`` bytes; how many went."""
        gone: list[int] = []
        left = self.bytes
        if left > limit:
            for number, size in sql.execute("SELECT id, size FROM dead ORDER BY id"):
                gone.append(number)
                left -= size
                if left <= limit:
                    break
        return self.drop(sql, gone)

    def drop(self, sql: sqlite3.Connection, numbers: Sequence[int]) -> int:
        """Forget them; how many there were."""
        if not numbers:
            return 0
        ids = json.dumps(list(numbers))
        among = "WHERE id IN (SELECT value FROM json_each(?))"
        gone = 0
        for reason, count, size in sql.execute(
            f"SELECT reason, count(*), sum(size) FROM dead {among} GROUP BY reason", (ids,)
        ).fetchall():
            gone += count
            self.count -= count
            self.bytes -= size
            self.reasons[reason] = left = self.reasons.get(reason, 0) - count
            if left <= 0:
                del self.reasons[reason]
        sql.execute(f"DELETE FROM dead {among}", (ids,))
        return gone

    def _counted(self, reason: str, size: int) -> None:
        self.count += 1
        self.bytes += size
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


def has_text(sql: sqlite3.Connection) -> bool:
    """Whether the table has the broker's texts."""
    return any(row[1] == "text" for row in sql.execute("PRAGMA table_info(dead)"))


def _clean(text: str) -> str:
    return text[:_LONGEST].encode("utf-8", "replace").decode("utf-8")
