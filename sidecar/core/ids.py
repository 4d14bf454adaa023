"""Random ids, drawn in bulk: one draw and one formatting for a hundred of them."""

from __future__ import annotations

import random
from typing import Final

_POOL_DIGITS: Final = 4096


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
