"""Random ids, drawn in bulk: one draw and one formatting for a hundred of them."""

from __future__ import annotations

import random
from typing import Final

_POOL_DIGITS: Final = 4096
#: Lines that are made at once.
_LINES: Final = 128
_DIGIT: Final = ord("*")


class Ids:
    """Hexadecimal digits from ``rng``, each handed out once."""

    __slots__ = ("_at", "_digits", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._digits = ""
        self._at = _POOL_DIGITS

    def take(self, digits: int) -> str:
        """That many lower-case digits (at most 4096 at once)."""
        at = self._at
        end = at + digits
        if end > _POOL_DIGITS:
            self._digits = self._rng.randbytes(_POOL_DIGITS // 2).hex()
            at, end = 0, digits
        self._at = end
        return self._digits[at:end]


class IdLines:
    """Lines that are alike but for the ids in them, each handed out once: ``form``, with a digit in place of each
    asterisk. So what is said of every exchange in the same words is not put together for each of them."""

    __slots__ = ("_at", "_columns", "_form", "_lines", "_rng", "_size")

    def __init__(self, rng: random.Random, form: bytes) -> None:
        self._rng = rng
        self._size = len(form)
        self._columns = [column for column, byte in enumerate(form) if byte == _DIGIT]
        self._form = form
        self._lines = b""
        self._at = 0

    def take(self) -> bytes:
        """The next line."""
        at = self._at
        if at == len(self._lines):
            self._lines = self._made()
            at = 0
        self._at = end = at + self._size
        return self._lines[at:end]

    def _made(self) -> bytes:
        """Column by column: so many copies of bytes are quicker than to put together line by line."""
        lines = bytearray(self._form * _LINES)
        digits = self._rng.randbytes(len(self._columns) * _LINES // 2).hex().encode()
        for number, column in enumerate(self._columns):
            lines[column :: self._size] = digits[number * _LINES : (number + 1) * _LINES]
        return bytes(lines)
