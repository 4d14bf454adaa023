"""A database's files: private, locked for one process, synced to the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sidecar.storage.errors import InUseError, SpoolError

logger = logging.getLogger("sidecar.disk")

#: Damaged files that are kept.
KEPT: Final = 3


class Files:
    """Where a database is. ``base`` is itself; what is being salvaged grows in ``growing`` and is ``whole`` from when
    everything is in it until it has taken the database's place; ``reserve`` is what :class:`.Reserve` holds."""

    __slots__ = ("_lock", "base", "folder", "growing", "known", "lock", "reserve", "wal", "whole")

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        file = quote(name, safe="") + ".db"
        self.base = folder / file
        self.wal = folder / (file + "-wal")
        self.lock = folder / (file + ".lock")
        self.growing = folder / (file + ".growing")
        self.whole = folder / (file + ".whole")
        self.reserve = folder / (file + ".reserve")
        self._lock = -1
        #: There was a lock before ours, so there was a database.
        self.known = False

    def prepare(self) -> None:
        """Make the folder (0700) and the lock (0600), and take it, unless it is ours. Raises :class:`SpoolError`;
        :class:`InUseError`, when another process has it."""
        try:
            if self._lock >= 0:
                found = os.fstat(self._lock)
                if identity(self.lock) == (found.st_dev, found.st_ino):
                    return
                self.release()
            make_folder(self.folder)
            self._take()
        except OSError as error:
            raise SpoolError(f"{error.filename or self.folder}: {error.strerror}") from error

    def _take(self) -> None:
        known = self.lock.exists()
        lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            raise InUseError(f"{self.base} is in use by another process, {owner or 'unknown'}") from error
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        self.known = known
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Release the lock."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with contextlib.suppress(OSError):  # it is closed all the same (close(2))
                os.close(lock)

    def create(self) -> None:
        """Make the database's file (0600) if there is none, and see that it can be read and written. Never to be called
        while the database is open in this process: closing any descriptor of it would end SQLite's own locks."""
        file = os.open(self.base, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(file).st_mode & 0o077:
                logger.warning("others could read what is stored; now they cannot", extra={"file": str(self.base)})
                os.fchmod(file, 0o600)
        finally:
            os.close(file)
        self._close_log()
        sync_folder(self.folder)

    def _close_log(self) -> None:
        """Let nobody else read the log, either: SQLite makes it as the database is, but one may have been put back."""
        try:
            mode = os.stat(self.wal, follow_symlinks=False).st_mode
        except OSError:
            return
        if stat.S_ISREG(mode) and mode & 0o077:
            logger.warning("others could read what is stored; now they cannot", extra={"file": str(self.wal)})
            os.chmod(self.wal, 0o600)

    def header(self) -> bytes:
        """Return the first hundred bytes. As with :meth:`create`, not while the database is open."""
        with self.base.open("rb") as file:
            return file.read(100)

    def replace(self, now: float) -> Path | None:
        """If there is a ``whole`` one, put it in the database's place; what was there is set aside, and that is where
        it is now. May be stopped at any moment and called again."""
        aside: Path | None = None
        if self.whole.exists():
            if self.base.exists():
                aside = self.set_aside(now)
            else:
                self.wal.unlink(missing_ok=True)
            sync_folder(self.folder)
            self.whole.rename(self.base)
            sync_folder(self.folder)
        self.discard_growing()
        return aside

    def size(self) -> int | None:
        """Return the database's size in bytes, without its log; None without a file."""
        try:
            return self.base.stat().st_size
        except FileNotFoundError:
            return None

    def set_aside(self, now: float) -> Path:
        """Rename the database and its log, as far as they exist. Return the database's new name."""
        aside = self._aside(int(now))
        if self.wal.exists():
            self.wal.rename(aside.with_name(aside.name + "-wal"))
        if self.base.exists():
            self.base.rename(aside)
        return aside

    def _aside(self, now: int) -> Path:
        """Return a free name. Of too many files that were set aside, the oldest are deleted."""
        start = f"{self.base.name}.corrupt-"
        kept = sorted(
            it.name for it in self.folder.iterdir() if it.name.startswith(start) and not it.name.endswith("-wal")
        )
        for name in kept[: max(0, len(kept) - KEPT + 1)]:
            logger.warning("a damaged file that was kept goes for a newer one", extra={"file": name})
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / (name + "-wal")).unlink(missing_ok=True)
        while start + str(now) in kept:
            now += 1
        return self.folder / (start + str(now))

    def discard_growing(self) -> None:
        """Remove what an interrupted salvage has left behind."""
        for suffix in ("", "-wal", "-journal"):
            self.growing.with_name(self.growing.name + suffix).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder (0700) and its parents, synced. An existing one stays as it is."""
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder: what was made, renamed or removed in it is on the disk then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: Path) -> tuple[int, int] | None:
    """Return the identity of a file (device and inode); None without one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
