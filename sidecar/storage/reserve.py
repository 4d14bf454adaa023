"""Room that is set aside on a disk, so that something can still be written when it is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from sidecar.storage.errors import DiskFullError
from sidecar.storage.faults import disk_full

#: It grows in such steps, bytes.
_STEP: Final = 1 << 20
#: Not every file system can set room aside; then there is none, and nobody is kept from anything.
_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def allocate(file: int, size: int) -> None:
    """Let a file have so many bytes at least, and their room on the disk. Raises :class:`DiskFullError`, and
    ``OSError``."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in _CANNOT:
            return
        if disk_full(error):
            raise DiskFullError from error
        raise


class Reserve:
    """A file of a certain size, that is deleted when there is no other room. ``held``: it is there."""

    __slots__ = ("_path", "_size", "held")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self.held = False

    def hold(self, size: int) -> None:
        """Set aside so many bytes at least. Raises :class:`DiskFullError` when they are not to be had, and ``OSError``;
        what was held is held no more then."""
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
        """Somebody may have deleted the file."""
        if self.held and not self._path.exists():
            self.held = False

    def give_up(self) -> bool:
        """Make the room free; whether there was any."""
        self.held = False
        self._size = 0
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
