"""Counters of the replay."""

from __future__ import annotations


class ReplayStats:
    """What became of spooled messages, so far; ``dead`` by reason. ``parked`` is now: messages that wait for the login
    of their user."""

    __slots__ = ("dead", "expired", "nacked", "parked", "replayed", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.replayed = 0
        self.nacked = 0
        self.expired = 0
        self.dead: dict[str, int] = {}
        self.parked = 0
