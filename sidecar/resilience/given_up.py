"""A memory of requests that were given up lately, by their ids: one port gives up, and another one tells of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: Ids that are remembered at most. They are bounded where they are read, and serve for as long as a request takes.
MOST: Final = 4096


class GivenUp:
    """Remembers when requests were given up, and after how many tries. The oldest go when there are too many."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, ids: tuple[str, ...], now: float, tries: int) -> None:
        """One more, with all of its ids."""
        found = self._found
        for id in ids:
            found.pop(id, None)
            found[id] = (now, tries)
        while len(found) > MOST:
            found.popitem(last=False)

    def since(self, ids: tuple[str, ...], began: float) -> int:
        """Return after how many tries a request with one of these ids was given up since that time; -1: none was."""
        for id in ids:
            at, tries = self._found.get(id, (-1.0, -1))
            if tries >= 0 and at >= began:
                return tries
        return -1
