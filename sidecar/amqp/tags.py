"""Delivery tags of a channel whose broker connection was replaced (AMQP 0-9-1 §1.1 "delivery-tag").

A broker numbers the deliveries of a channel from 1. The client has seen those of the connection that is gone, so the
new ones get numbers behind them, and settling an old one means nothing any more: the broker has put that message back
into its queue.
"""

from __future__ import annotations

from typing import Final

#: A settlement that is for nobody.
STALE: Final = -1


class DeliveryTags:
    """One channel's. As long as :attr:`offset` is 0 both sides use the same numbers, and frames may pass as they are;
    ``last`` has to be kept all the same, by :meth:`delivered`."""

    __slots__ = ("last", "offset")

    def __init__(self) -> None:
        #: What the broker's numbers are to be raised by.
        self.offset = 0
        #: The last number that the client has seen.
        self.last = 0

    def delivered(self, tag: int) -> int:
        """The client's number for one of the broker's, which goes to the client."""
        self.last = seen = tag + self.offset
        return seen

    def settled(self, tag: int, multiple: bool) -> int:
        """The broker's number for what a client settles: :data:`STALE` when it is nobody's business any more. 0 with
        ``multiple`` means all that there are, and does so for the broker."""
        if tag == 0:
            return 0 if multiple else STALE if self.offset else 0
        return tag - self.offset if tag > self.offset else STALE

    def lost(self) -> None:
        """The broker connection is gone, and what was delivered over it with it."""
        self.offset = self.last
