"""A memory that is bounded in entries and in bytes; what was not used for the longest goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Lru:
    """At most ``entries``, and at most ``most_bytes`` in all, as its user counts them."""

    __slots__ = ("_entries", "_found", "dropped", "most_bytes", "size")

    def __init__(self, entries: int, most_bytes: int) -> None:
        self._entries = entries
        self.most_bytes = most_bytes
        self._found: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        #: Bytes of all that is here; and how many had to go for others.
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Hashable) -> Any:
        """What is kept under that key, which is now used; ``None``: nothing."""
        found = self._found.get(key)
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> bool:
        """Keep it; return False if it is larger than all that there is room for."""
        self.remove(key)
        if size > self.most_bytes:
            return False
        self._found[key] = (value, size)
        self.size += size
        self._drop()
        return True

    def limit(self, most_bytes: int) -> None:
        """Another bound in bytes from now on."""
        self.most_bytes = most_bytes
        self._drop()

    def _drop(self) -> None:
        while self.size > self.most_bytes or len(self._found) > self._entries:
            self._drop_one()

    def _drop_one(self) -> None:
        """What was not used for the longest goes."""
        self._gone(*self._found.popitem(last=False)[1])
        self.dropped += 1

    def remove(self, key: Hashable) -> None:
        """Keep nothing under that key."""
        found = self._found.pop(key, None)
        if found is not None:
            self._gone(*found)

    def _gone(self, value: Any, size: int) -> None:
        """That is not kept any more."""
        self.size -= size
