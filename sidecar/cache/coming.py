"""Answers that are on their way, and how much of them is in memory until they are whole."""

from __future__ import annotations

from typing import Any

from sidecar.cache.stored import Stored


class Room:
    """What is there of answers on their way: ``size`` bytes, ``most`` at most."""

    __slots__ = ("most", "size")

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0


class Coming:
    """An answer that is on its way, of that ``length``, by that ``attempt``, and will be kept once it is whole. It
    takes up ``room`` until somebody calls :meth:`over`."""

    __slots__ = ("attempt", "length", "pieces", "room", "size", "stored")

    def __init__(self, stored: Stored, length: int, attempt: Any, room: Room) -> None:
        self.stored = stored
        self.length = length
        self.attempt = attempt
        self.pieces: list[bytes] = []
        self.size = 0
        self.room = room

    def take(self, data: bytes, most: int) -> bool:
        """More of its body; whether it is not too large, and there is room for it."""
        self.size += len(data)
        self.room.size += len(data)
        self.pieces.append(data)
        return self.size <= most and self.room.size <= self.room.most

    def over(self) -> None:
        """Nothing more is taken, and nothing is there any more."""
        self.room.size -= self.size
        self.size = 0
        self.pieces = []
