"""Errors of what is kept on the disk."""

from __future__ import annotations

import errno


class SpoolError(Exception):
    """A spool or a queue cannot be used, or could not store what it was given. The text says why, for an operator."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class InUseError(SpoolError):
    """Another process has the file."""


class InDoubtError(SpoolError):
    """Syncing failed: after a restart the change may be there, or not."""


class DiskFullError(OSError):
    """The disk is full for new data; a deletion may still succeed."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "the disk is full")
