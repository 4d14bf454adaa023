"""What is passed on of one reading: slices of it as they came, and what stands in place of others."""

from __future__ import annotations


class Splice:
    """What is to be passed on of one reading, ``data``, in order. The run is what lies between :attr:`start` and where
    the loop is; what stands before it is in ``out``."""

    __slots__ = ("data", "out", "start")

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.out: list[bytes] = []
        self.start = start

    def until(self, end: int) -> None:
        """Everything up to there passes as it is."""
        if self.start < end:
            self.out.append(self.data[self.start : end])
            self.start = end

    def replace(self, start: int, end: int, new: bytes) -> None:
        """What is before ``start`` passes as it is, and ``new`` goes in place of what is up to ``end``."""
        self.until(start)
        self.start = end
        if new:
            self.out.append(new)

    def withdraw(self, start: int, end: int) -> bytes:
        """Take out again what would pass from ``start``, where a frame begins that was replaced or passes as it is, up
        to ``end``."""
        if self.start > start:
            piece = self.out.pop() + self.data[self.start : end]
        else:
            self.until(start)
            piece = self.data[start:end]
        self.start = end
        return piece

    def take(self) -> bytes:
        """What has been collected, but for the run; it is forgotten here."""
        out = self.out
        if not out:
            return b""
        self.out = []
        return out[0] if len(out) == 1 else b"".join(out)
