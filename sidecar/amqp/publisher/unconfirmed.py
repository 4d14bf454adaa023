"""What is on its way, by the broker's numbers."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Longer than the name of any exchange (AMQP 0-9-1, ``shortstr``).
NO_EXCHANGE: Final = bytes(256)


class Sent:
    """A message that was given and not answered."""

    __slots__ = ("frames", "returned", "token")

    def __init__(self, frames: bytes, token: object) -> None:
        self.frames = frames
        self.token = token
        self.returned = False

    def exchange(self) -> bytes:
        """Its exchange, as it stands in ``basic.publish``."""
        return self.frames[14 : 14 + self.frames[13]]

    def lane(self) -> bytes:
        """What is in doubt together with it: those to its exchange or, if that is the default one, to its queue."""
        frames = self.frames
        size = frames[13]
        return frames[14 : 14 + size] if size else NO_EXCHANGE + frames[15 : 15 + frames[14]]


class Unconfirmed:
    """The messages that were sent on one channel and not answered. The first one sent after ``confirm.select`` has the
    number 1."""

    __slots__ = ("_base", "_items", "count")

    def __init__(self) -> None:
        #: In order (``None``: answered before those in front of it); the number of the first; and how many are not
        #: answered.
        self._items: deque[Sent | None] = deque()
        self._base = 1
        self.count = 0

    def add(self, sent: Sent) -> None:
        """One leaves."""
        self._items.append(sent)
        self.count += 1

    def settle(self, number: int, multiple: bool) -> list[Sent]:
        """The broker has answered: whom. Numbers that were never used, or are answered already, mean nothing."""
        items = self._items
        index = number - self._base
        answered: list[Sent] = []
        if multiple:
            if number == 0:
                index = len(items) - 1
            elif index >= len(items):
                return answered
            while index >= 0:
                index -= 1
                self._base += 1
                sent = items.popleft()
                if sent is not None:
                    answered.append(sent)
        elif 0 <= index < len(items):
            sent = items[index]
            if index:
                items[index] = None
            else:
                items.popleft()
                self._base += 1
            if sent is not None:
                answered.append(sent)
        while items and items[0] is None:
            items.popleft()
            self._base += 1
        self.count -= len(answered)
        return answered

    def came_back(self, key: bytes) -> Sent | None:
        """One comes back; ``key`` is its exchange and its routing key, as they stand in ``basic.publish``. Which one it
        is nobody says: the first of those like it that were ``mandatory``, as they come back in order."""
        after = 13 + len(key)
        for sent in self._items:
            if sent is not None and not sent.returned:
                frames = sent.frames
                if frames.startswith(key, 13) and frames[after] & 1:
                    sent.returned = True
                    return sent
        return None

    def take_all(self) -> list[Sent]:
        """The channel is gone: what has no answer, in order."""
        left = [sent for sent in self._items if sent is not None]
        self._items.clear()
        self._base = 1
        self.count = 0
        return left
