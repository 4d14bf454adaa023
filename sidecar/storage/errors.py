"""What is wrong with what should be kept on the disk."""

from __future__ import annotations

import errno


class SpoolError(Exception):
    """A spool or a queue cannot be used, or could not keep what it was given; the text says why, in words for an
    operator."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class InUseError(SpoolError):
    """Another process has it."""


class InDoubtError(SpoolError):
    """It failed when it was being made durable: it may be found there later, or not."""


class DiskFullError(OSError):
    """There is no room for more, though perhaps for what makes room."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "the disk is full")
