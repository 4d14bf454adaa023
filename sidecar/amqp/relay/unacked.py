"""Deliveries that a client has not settled yet (AMQP 0-9-1 §1.8.3.12 to 14: basic.ack, reject, nack, recover)."""

from __future__ import annotations

from collections import OrderedDict


class Unacked:
    """Those of one channel, by delivery tag. The broker's tags only grow (§4.7, "delivery-tag" domain); a client may
    settle them in any order, and all up to one at once."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: OrderedDict[int, object] = OrderedDict()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._notes)

    def delivered(self, tag: int, note: object = None) -> None:
        """A delivery that wants settling has gone to the client; ``note`` is whatever is to be remembered of it."""
        self._notes[tag] = note

    def settled(self, tag: int, multiple: bool) -> list[object]:
        """The notes of the deliveries that this settles, oldest first: that of ``tag``, or with ``multiple`` of all up
        to it (all there are for tag 0). Tags that were settled or never delivered: none."""
        notes = self._notes
        if not multiple:
            if tag not in notes:
                return []
            return [notes.pop(tag)]
        if tag == 0:
            found = list(notes.values())
            notes.clear()
            return found
        found = []
        while notes and next(iter(notes)) <= tag:
            found.append(notes.popitem(last=False)[1])
        return found

    def last(self) -> int:
        """The newest; 0: there is none."""
        return next(reversed(self._notes)) if self._notes else 0

    def tags(self, last: int) -> list[int]:
        """Those up to ``last`` (0: all), oldest first."""
        return [tag for tag in self._notes if last == 0 or tag <= last]

    def clear(self) -> None:
        """The channel is gone, or everything is to be delivered again (basic.recover)."""
        self._notes.clear()
