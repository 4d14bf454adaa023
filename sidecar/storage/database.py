"""A database's file: opened, recognised, watched, and copied when it is damaged or gone."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from sidecar.storage.errors import DiskFullError, SpoolError
from sidecar.storage.faults import FAILURES, NotADatabaseError, damaged, describe, disk_full
from sidecar.storage.files import Files, identity
from sidecar.storage.reserve import Reserve, allocate
from sidecar.storage.salvage import new_file
from sidecar.storage.sqlite import Format, connect, roll_back, scalar

logger = logging.getLogger("sidecar.disk")

#: The file grows in such steps, bytes.
_STEP: Final = 1 << 20


class Contents(Protocol):
    """The content of a file, as its user knows it."""

    def load(self, sql: sqlite3.Connection) -> None:
        """The file was opened: read what has to be known of it, and write something, which shows that it can be
        written, and makes the log."""
        ...

    def copy(self, reader: sqlite3.Connection | None, writer: sqlite3.Connection) -> int:
        """Write what can be read (None: nothing) into a new file. Return how much is known to be lost."""
        ...

    def salvaged(self, lost: int) -> None:
        """That has become the file, and was loaded."""
        ...


class DatabaseFile:
    """One database on the disk, for one process and, but for opening, one thread. ``wall`` is Unix time. All methods
    raise ``sqlite3.Error`` or ``OSError`` when the file cannot be used."""

    __slots__ = (
        "_contents", "_file", "_form", "_growing", "_least", "_log", "_size", "_sql", "_wall", "committed",
        "committing", "files", "reserve",
    )  # fmt: skip

    def __init__(self, folder: Path, name: str, form: Format, contents: Contents, wall: Callable[[], float]) -> None:
        self.files = Files(folder, name)
        self.reserve = Reserve(self.files.reserve)
        self._form = form
        self._contents = contents
        self._wall = wall
        self._sql: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        #: The file, to let it grow (-1: it is not open), its size without its log, bytes, and what it has at least.
        self._growing = -1
        self._size = 0
        self._least = 0
        #: How far the last transaction has come: to what cannot be taken back, and whether that has succeeded.
        self.committing = False
        self.committed = False

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make or read the file, whose lock is held. Of a damaged one, what can be read is copied. Raises
        :class:`SpoolError`, with a text for an operator, when it is of no use."""
        try:
            self.connect()
        except FAILURES as error:
            self.close()
            raise SpoolError(f"{self.files.base}: {describe(error)}") from error
        except SpoolError:
            self.close()
            raise

    def connect(self) -> None:
        """Open the file again; the lock stays. Raises :class:`SpoolError` for a file of another program or of a later
        version, which stays untouched."""
        self.disconnect()
        self.files.prepare()
        known, self.files.known = self.files.known, True
        self.files.replace(self._wall())
        self._look_for_loss(known)
        self.files.create()
        try:
            self._check_header()
            try:
                self._connect()
            except FAILURES as error:
                if not (disk_full(error) and self.reserve.give_up()):
                    raise
                self._connect()
        except FAILURES as error:
            if not damaged(error):
                raise
            self.salvage(error)

    def reopen(self) -> None:
        """After an error: as :meth:`connect`; but a file that is no longer in its place is copied, as long as it is
        still open. Raises as both."""
        if self.usable and self.moved():
            self.salvage(None)
        else:
            self.connect()

    def _look_for_loss(self, known: bool) -> None:
        """A file without anything in it becomes a new one, and what it had is not to be found out: so the log has to
        say that. ``known``: there was one here before."""
        size = self.files.size()
        if size or not (known or size == 0):
            return
        aside = self.files.set_aside(self._wall()) if self.files.wal.exists() else None
        logger.error(
            "the file of %s is %s: if anything was stored in it, that is lost",
            self._form.what,
            "empty" if size == 0 else "gone",
            extra={"file": str(self.files.base), "kept": "" if aside is None else str(aside)},
        )

    def _check_header(self) -> None:
        """Check the file's application and version (SQLite's file format, §1.3) before SQLite writes to it."""
        header = self.files.header()
        if not header:
            return
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise NotADatabaseError("file is not a database")
        if int.from_bytes(header[68:72], "big") != self._form.application:
            raise SpoolError(f"{self.files.base} is not {self._form.what} but somebody else's database")
        self._check_version(int.from_bytes(header[60:64], "big"))

    def _check_version(self, version: int) -> None:
        schema = self._form.schema
        if version > schema:
            raise SpoolError(
                f"{self.files.base} was written by a later version of the sidecar: "
                f"its schema is {version}, and this one knows {schema}"
            )
        if version < schema:
            raise SpoolError(f"{self.files.base} is of an unknown version: its schema is {version}")

    def _connect(self) -> None:
        # To be closed after SQLite has closed it: closing any descriptor of a file ends all of its locks.
        self._growing = os.open(self.files.base, os.O_RDWR)
        try:
            sql = self._sql = connect(self.files.base, self._form)
            self._check_version(scalar(sql, "PRAGMA user_version"))
            self._contents.load(sql)
        except BaseException:
            self.disconnect()
            raise
        self._file = identity(self.files.base)
        self._log = identity(self.files.wal)
        self._size = self._least = self.files.base.stat().st_size
        try:
            self.reserve.check()
            self.hold()
        except OSError as error:
            logger.warning("no room can be set aside beside %s: %s", self.files.base, describe(error))

    def disconnect(self) -> None:
        """Close the file; the lock stays."""
        sql, self._sql = self._sql, None
        if sql is not None:
            try:
                sql.close()
            except sqlite3.Error as error:
                logger.warning("%s could not be closed well: %s", self.files.base, describe(error))
        growing, self._growing = self._growing, -1
        if growing >= 0:
            try:
                os.close(growing)
            except OSError as error:  # it is closed all the same (close(2)), and what matters was synced
                logger.warning("%s could not be closed well: %s", self.files.base, describe(error))

    def close(self) -> None:
        """Close the file and give up the lock."""
        if self._sql is not None:
            self.disconnect()
            # The log is gone, and on a full disk the next start needs the room that it had.
            with contextlib.suppress(OSError):
                self.reserve.hold(self._form.room + self._form.log_room)
        self.files.release()

    @property
    def usable(self) -> bool:
        """Return whether the file is open."""
        return self._sql is not None

    @property
    def sql(self) -> sqlite3.Connection:
        """Return the connection."""
        if self._sql is None:
            raise sqlite3.OperationalError(f"{self.files.base} is not open")
        return self._sql

    def moved(self) -> str:
        """Say what has become of the open file when its name does not lead to it any more: later writes would be lost.
        Empty: it is in its place."""
        try:
            found = os.stat(self.files.base)
        except OSError:
            return "gone"
        if (found.st_dev, found.st_ino) != self._file:
            return "replaced by another"
        if found.st_size < self._least:
            return "cut short"
        log = identity(self.files.wal)
        if self._log is None:
            self._log = log  # SQLite makes it with the first write
        return "" if log == self._log else "without its log"

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed, and on the disk, at the end; or rolled back."""
        sql = self.sql
        self.committing = self.committed = False
        sql.execute("BEGIN IMMEDIATE")
        try:
            yield sql
            with contextlib.suppress(DiskFullError):  # who stores something insists on it: hold()
                self._grow()
            self.committing = True
            sql.execute("COMMIT")
            self.committed = True
        except BaseException:
            roll_back(sql)
            raise

    # -- room ----------------------------------------------------------------------------------------------------------

    def hold(self, spare: int = 0) -> None:
        """Let the file have all the room that it needs for what is in the log, or in the transaction that is open, so
        that nobody else can take it before the next checkpoint; and set room aside: for the log, should it be small,
        beside that, what the format says, and ``spare`` bytes. Without that nothing may be stored, as it might not be
        possible to remove it again. Raises :class:`DiskFullError`."""
        form = self._form
        try:
            log = os.stat(self.files.wal).st_size
        except (FileNotFoundError, NotADirectoryError):
            return  # as moved() will say
        self._grow()
        self.reserve.hold(max(0, form.log_room - log) + form.room + spare)

    def _grow(self) -> None:
        """Let the file have the room for what is in the log and in the transaction that is open. What is in the log
        without that may never come out of it: a disk that somebody else fills meanwhile has no page more for the file,
        and a log that cannot be copied cannot begin anew, so that nothing could be removed either. Raises
        :class:`DiskFullError`."""
        needed = scalar(self.sql, "PRAGMA page_count") * self._form.page
        if needed <= self._size:
            return
        size = -(-needed // _STEP) * _STEP
        try:
            allocate(self._growing, size)
        except DiskFullError:
            size = needed
            allocate(self._growing, size)
        self._size = size
        self._least = os.fstat(self._growing).st_size  # not every file system can allocate

    def check_room(self) -> None:
        """Raise :class:`DiskFullError` when nothing may be stored, as it might not be possible to remove it again."""
        if not self.reserve.held:
            raise DiskFullError

    def probe(self, spare: int = 0) -> None:
        """Find out whether something can be written, and is on the disk; and set room aside, as :meth:`hold`. Raises
        :class:`DiskFullError` when there is too little."""
        self.reserve.check()
        # Not one transaction: what it takes away again, it need not write.
        with self.transaction() as sql:
            sql.execute("INSERT INTO probe VALUES (zeroblob(65536))")
            self.hold(spare)
        with self.transaction() as sql:
            sql.execute("DELETE FROM probe")

    def checkpoint(self) -> None:
        """Copy the log into the file, so that the log can begin anew in the room that it has."""
        self.sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._size = os.stat(self.files.base).st_size
        # The log may have been truncated meanwhile: all pages are in it now, or should be.
        self._least = max(self._size, scalar(self.sql, "PRAGMA page_count") * self._form.page)

    def make_room(self) -> None:
        """Use what was set aside, because the disk is full."""
        self.reserve.give_up()
        self.checkpoint()

    # -- damage --------------------------------------------------------------------------------------------------------

    def salvage(self, cause: Exception | None) -> None:
        """Copy all that can be read into a new file, which takes this one's place; the old one is kept beside it.
        ``cause`` None: the file was deleted or replaced, but is still open."""
        files = self.files
        logger.error(
            "the file of %s is %s; what is in it goes into a new one",
            self._form.what,
            f"damaged ({describe(cause)})" if cause is not None else self.moved() or "gone",
            extra={"file": str(files.base)},
        )
        files.prepare()
        files.discard_growing()
        reader = self._sql
        if reader is None and not isinstance(cause, NotADatabaseError):
            try:
                reader = self._sql = connect(files.base, self._form)
            except FAILURES as error:
                if not damaged(error):
                    raise
        if reader is not None:
            roll_back(reader)
        readable = reader is not None
        with new_file(files.growing, self._form) as writer:
            lost = self._contents.copy(reader, writer)
        files.growing.rename(files.whole)
        self.disconnect()
        aside = files.replace(self._wall())
        self._connect()
        self._contents.salvaged(lost)
        logger.error(
            "%s has a new file",
            self._form.what,
            extra={
                "file": str(files.base),
                "kept": "" if aside is None else str(aside),
                "lost": lost if readable else "unknown",
            },
        )
