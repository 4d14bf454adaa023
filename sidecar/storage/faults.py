"""The meaning of a database's errors."""

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
    """The file does not begin as a database does."""


def damaged(error: BaseException) -> bool:
    """Return whether the file is damaged: it differs from what SQLite has written."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, UnicodeDecodeError | NotADatabaseError) or type(error) is sqlite3.DatabaseError
    return code & 0xFF in _DAMAGE


def disk_full(error: BaseException) -> bool:
    """Return whether the disk is full. The file stays usable, and the transaction has left nothing behind."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def refused(error: BaseException) -> bool:
    """Return whether the data to be written is at fault; the file is sound then."""
    if isinstance(error, sqlite3.Error):
        return (
            isinstance(error, sqlite3.DataError | sqlite3.InterfaceError | sqlite3.ProgrammingError)
            or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_TOOBIG
        )
    return isinstance(error, ValueError | OverflowError | TypeError | struct.error) and not isinstance(
        error, UnicodeDecodeError
    )


def describe(error: BaseException) -> str:
    """Describe an error, for people."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, SpoolError):
        return error.text
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error} ({name})" if name else str(error)
