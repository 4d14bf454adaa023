"""Disk space that is set aside, so that a full disk can still be written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from sidecar.storage.errors import DiskFullError
from sidecar.storage.faults import disk_full

#: It grows in such steps, bytes.
_STEP: Final = 1 << 20
#: Some file systems cannot set room aside; then there is none, and all else works as ever.
_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def allocate(file: int, size: int) -> None:
    """Allocate at least so many bytes for a file. Raises :class:`DiskFullError`, and ``OSError``."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in _CANNOT:
            return
        if disk_full(error):
            raise DiskFullError from error
        raise


class Reserve:
    """A file of a fixed size, deleted when there is no other room. ``held``: it is there."""

    __slots__ = ("_path", "_size", "held")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self.held = False

    def hold(self, size: int) -> None:
        """Set at least so many bytes aside. Raises :class:`DiskFullError` when there is too little room, and
        ``OSError``; the reserve is given up then."""
        if self.held and size <= self._size:
            return
        size = -(-size // _STEP) * _STEP
        self.held = False
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            allocate(file, size)
            os.ftruncate(file, size)
        except OSError:
            self.give_up()
            raise
        finally:
            os.close(file)
        self._size = size
        self.held = True

    def check(self) -> None:
        """Notice that the file was deleted by another program."""
        if self.held and not self._path.exists():
            self.held = False

    def give_up(self) -> bool:
        """Free the room. Return whether there was any."""
        self.held = False
        self._size = 0
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
