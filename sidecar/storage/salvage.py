"""Reads what can be read of a damaged database, row by row."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sidecar.storage.faults import FAILURES, describe
from sidecar.storage.sqlite import Format, connect

logger = logging.getLogger("sidecar.disk")

#: Beyond this number there are no rows.
_END: Final = 1 << 62


@contextlib.contextmanager
def new_file(path: Path, form: Format) -> Iterator[sqlite3.Connection]:
    """A new database, which is on the disk and closed at the end. Raises ``sqlite3.Error`` or ``OSError`` when it
    cannot be written."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(connect(path, form)) as sql:
        yield sql
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def rows(reader: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read, in the order of the first of these columns, which is the table's key. Behind one that
    cannot, the next that can is searched for: in steps that double, then by halving the last step, as what cannot be
    read is a page or more and mostly one piece."""
    key = columns.partition(",")[0]
    query = f"SELECT {columns} FROM {table} NOT INDEXED WHERE {key} > ? ORDER BY {key}"
    last = -1
    while True:
        try:
            for row in reader.execute(query, (last,)):
                last = row[0]
                yield row
            return
        except FAILURES as error:
            logger.warning("rows of a damaged database cannot be read: %s", describe(error), extra={"behind": last})
        bad = last + 1
        step = 1
        while not _readable(reader, query, bad + step):
            step *= 2
            if bad + step > _END:
                return
        low, high = bad + step // 2, bad + step
        while high - low > 1:
            middle = (low + high) // 2
            if _readable(reader, query, middle):
                high = middle
            else:
                low = middle
        last = high - 1


def count(reader: sqlite3.Connection, table: str, index: str) -> int:
    """Return how many rows the index lists; 0 when it cannot be read."""
    try:
        return int(reader.execute(f"SELECT count(*) FROM {table} INDEXED BY {index}").fetchone()[0])
    except FAILURES:
        return 0


def _readable(reader: sqlite3.Connection, query: str, key: int) -> bool:
    """Return whether the row of that key, or the first one after it, can be read, or there is none."""
    try:
        reader.execute(f"{query} LIMIT 1", (key - 1,)).fetchall()
    except FAILURES:
        return False
    return True
