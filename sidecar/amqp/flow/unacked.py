"""Deliveries of a channel that its client has not settled (AMQP 0-9-1 §1.8.3.12 to 14)."""

from __future__ import annotations

from sidecar.amqp.flow.runs import Runs


class Unacked:
    """The unsettled deliveries of one channel, by delivery tag. The broker's tags only grow (§4.7, "delivery-tag"
    domain); a client may settle them in any order, and all up to one at once."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags = Runs()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._tags.count

    def delivered(self, tag: int, note: object = None) -> bool:
        """A delivery that wants settling has gone to the client; ``note`` is whatever is to be remembered of it. Return
        whether it is one more."""
        return self._tags.put(tag, tag, note) > 0

    def delivered_run(self, first: int, last: int) -> int:
        """The same of those with consecutive tags and no notes. Return how many more they are."""
        return self._tags.put(first, last)

    def settled(self, tag: int, multiple: bool) -> list[object]:
        """The notes of the deliveries that this settles, oldest first: that of ``tag``, or with ``multiple`` of all up
        to it (all there are for tag 0). Tags that were settled or never delivered: none."""
        if multiple:
            return self.settled_run(0, tag or self._tags.last())
        return self.settled_run(tag, tag)

    def settled_run(self, first: int, last: int) -> list[object]:
        """The same of those from ``first`` to ``last``."""
        found: list[object] = []
        for begin, end, note in self._tags.take(first, last):
            found += [note] * (end - begin + 1)
        return found

    def settled_front(self, first: int, last: int) -> int:
        """The same if what there is of these are the oldest of all, with consecutive tags and no notes: how many they
        are. 0: it is not, and nothing is settled."""
        tags = self._tags
        if not tags.at_front(first, last) or tags.front() is not None:
            return 0
        return tags.take_front(last)

    def last(self) -> int:
        """The newest; 0: there is none."""
        return self._tags.last()

    def tags(self, last: int) -> list[int]:
        """Those up to ``last`` (0: all), oldest first."""
        return [tag for begin, end, _ in self._tags.all() for tag in range(begin, end + 1) if last == 0 or tag <= last]

    def clear(self) -> None:
        """The channel is gone, or everything is to be delivered again (basic.recover)."""
        self._tags.clear()
