"""What an error of a database means."""

from __future__ import annotations

import errno
import sqlite3
import struct
from typing import Final

from sidecar.storage.errors import SpoolError

#: What SQLite and the system raise. Damage can make SQLite's own error texts unreadable.
FAILURES: Final = (sqlite3.Error, OSError, UnicodeDecodeError)

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
#: A quota, and a limit of the process, are no other than the end of the disk.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NotADatabaseError(sqlite3.DatabaseError):
    """The file has not even the beginning of a database."""


def damaged(error: BaseException) -> bool:
    """Whether the file is not what SQLite has written."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, UnicodeDecodeError | NotADatabaseError) or type(error) is sqlite3.DatabaseError
    return code & 0xFF in _DAMAGE


def disk_full(error: BaseException) -> bool:
    """Whether there is no space; the file can be used all the same, and the transaction has left nothing behind."""
    if isinstance(error, OSError):
        return error.errno in _FULL
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
