"""Kept answers by what they answer: a resource, and of its answers the one whose varying fields fit (RFC 9111 §4.1)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any, Final

from sidecar.cache.fields import variant
from sidecar.resilience.lru import Lru

#: What an entry costs beside its bytes, and an exception.
OVERHEAD: Final = 500
_PER_OTHER: Final = 200
#: Exceptions of one resource, at most.
MOST_OTHERS: Final = 1000


class _Resource:
    """The fields that its answers vary by; ``others``: those of some, by whose they are, vary by. The ``number`` is a
    part of their keys, so that they are all gone when it is."""

    __slots__ = ("number", "others", "vary")

    def __init__(self, vary: tuple[bytes, ...], number: int) -> None:
        self.vary = vary
        self.number = number
        self.others: dict[bytes, tuple[bytes, ...]] = {}

    def takes(self, whose: bytes) -> bool:
        """Whether it is one of the exceptions, or there may be one more."""
        return whose in self.others or len(self.others) < MOST_OTHERS

    def values(self, raw: bytes, whose: bytes) -> tuple[Any, ...]:
        """What tells the request with that head from others of the same."""
        if whose in self.others:
            vary = self.others[whose]
            return (vary, *variant(raw, vary))  # not to be taken for values of other fields
        return variant(raw, self.vary)


class _Memory(Lru):
    """At most ``most`` answers, and as many resources besides. ``answers``: how many of the entries are that;
    ``losses``: how many entries are not kept any more."""

    __slots__ = ("_most", "answers", "losses")

    def __init__(self, most: int, most_bytes: int) -> None:
        super().__init__(2 * most, most_bytes)
        self._most = most
        self.answers = 0
        self.losses = 0

    def put(self, key: Hashable, value: Any, size: int) -> bool:
        kept = super().put(key, value, size)
        if kept and not isinstance(value, _Resource):
            self.answers += 1
            while self.answers > self._most:
                self._drop_one()
        return kept

    def _gone(self, value: Any, size: int) -> None:
        super()._gone(value, size)
        self.losses += 1
        if not isinstance(value, _Resource):
            self.answers -= 1


class Store:
    """At most ``entries`` answers and ``most_bytes`` in all; what was not used for the longest goes first.

    ``key`` says which resource a request is for, ``raw`` is the request's head, ``whose`` tells those apart who must
    not get each other's answers."""

    __slots__ = ("_entries", "_memory", "_numbers")

    def __init__(self, entries: int, most_bytes: int) -> None:
        self._entries = entries
        self._numbers = itertools.count(1)
        self._memory = _Memory(entries, most_bytes)

    def __len__(self) -> int:
        """How many answers there are; of a resource that is gone some may still be here."""
        return self._memory.answers

    @property
    def size(self) -> int:
        """Bytes of all that is here."""
        return self._memory.size

    @property
    def dropped(self) -> int:
        """How many entries had to go for others."""
        return self._memory.dropped

    @property
    def losses(self) -> int:
        """As long as this stays the same, everything is here that was."""
        return self._memory.losses

    def variant(self, key: bytes, raw: bytes, whose: bytes = b"") -> tuple[Any, ...] | None:
        """What tells such a request from others by the fields that answers vary by; ``None``: nothing is known of that
        resource."""
        resource: _Resource | None = self._memory.get(key)
        return None if resource is None else resource.values(raw, whose)

    def find(self, key: bytes, raw: bytes, whose: bytes = b"") -> Any:
        """The answer that is kept for such a request, or ``None``."""
        resource: _Resource | None = self._memory.get(key)
        if resource is None:
            return None
        return self._memory.get((resource.number, whose, resource.values(raw, whose)))

    def put(self, key: bytes, raw: bytes, vary: tuple[bytes, ...], answer: Any, size: int, whose: bytes = b"") -> bool:
        """Keep an answer of so many bytes; return False if there is no room for it and its resource. One that is
        nobody's and varies by other fields than those before, or is an exception too many, takes the place of all."""
        resource: _Resource | None = self._memory.get(key)
        memory = self._memory
        if resource is None or (resource.vary != vary and not (whose and resource.takes(whose))):
            resource = _Resource(vary, next(self._numbers))
            memory.put(key, resource, len(key) + OVERHEAD)
        elif resource.others.get(whose, resource.vary) != vary:
            resource.others[whose] = vary
            memory.put(key, resource, len(key) + OVERHEAD + len(resource.others) * _PER_OTHER)
        values = resource.values(raw, whose)
        size += len(key) + len(whose) + sum(map(len, values)) + OVERHEAD
        # Without its resource nothing finds it: that may be too large itself, or have had to go for this answer.
        if memory.get(key) is None or not memory.put((resource.number, whose, values), answer, size):
            return False
        if memory.get(key) is None:
            memory.remove((resource.number, whose, values))
            return False
        return True

    def remove(self, key: bytes) -> bool:
        """Keep nothing of that resource; whether there was anything."""
        found = self._memory.get(key) is not None
        self._memory.remove(key)
        return found

    def discard(self, key: bytes, raw: bytes, whose: bytes = b"") -> None:
        """Do not keep the answer to such a request any more."""
        resource: _Resource | None = self._memory.get(key)
        if resource is not None:
            self._memory.remove((resource.number, whose, resource.values(raw, whose)))

    def clear(self) -> int:
        """Keep nothing; how many answers there were."""
        gone = len(self)
        losses, most = self._memory.losses, self._memory.most_bytes
        self._memory = _Memory(self._entries, most)
        self._memory.losses = losses + 1
        return gone

    def bound(self, most_bytes: int) -> None:
        """Another bound in bytes from now on."""
        self._memory.limit(most_bytes)
