"""Who publishes, and the lanes in which publishes wait that must stay in order."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

from sidecar.amqp.flow.gates import Gate, Waiter
from sidecar.core.compiling import mypyc_attr

if TYPE_CHECKING:
    from sidecar.amqp.flow.publish import Publish


class Handle(Protocol):
    """What ``call_at`` returns, as :class:`asyncio.TimerHandle`."""

    def cancel(self) -> object: ...


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have senders of their own
class Sender:
    """A channel, as far as holding is concerned: the base of what implements it. Its methods must not raise."""

    __slots__ = ("held", "lanes", "one_lane", "origin", "user", "window")

    def __init__(self) -> None:
        #: Counted by :class:`Scheduler`: how many publishes are held, and the lanes they are in.
        self.held = 0
        self.lanes: dict[str, Lane] = {}
        #: Everything must stay in order (a channel in tx mode); to be changed only while nothing is held.
        self.one_lane = False
        #: A gate that every publish of this channel has to pass, before all others; ``None``: there is none.
        self.window: Gate | None = None
        #: Whose it is, for people; and the user that it publishes as, exactly (empty: not known).
        self.origin = ""
        self.user = ""

    def exempt(self, publish: Publish) -> bool:
        """Whether no gate of the broker's matters to this one, as it does not go there now."""
        return False

    def spoolable(self, publish: Publish) -> bool:
        """Whether it may go into the spool where it would have to wait, if its gate says ``over: spool``."""
        return False

    def spool(self, publish: Publish) -> None:
        """It goes there."""
        raise NotImplementedError

    def bypasses(self, publish: Publish) -> bool:
        """Whether it need no longer wait at a gate that it was sent to apart from its route."""
        return False

    def forward(self, publish: Publish) -> None:
        """Its turn has come: write it to the broker."""
        raise NotImplementedError

    def refuse(self, publish: Publish) -> None:
        """It will not go (and is in confirm mode): answer it with a basic.nack."""
        raise NotImplementedError

    def emptied(self) -> None:
        """Nothing is held for this channel any more, because the last of it was forwarded or refused."""
        raise NotImplementedError

    def stored(self, count: int) -> None:
        """So many of its publishes are no longer on their way to the disk."""
        raise NotImplementedError

    def confirmed(self, publishes: list[Publish]) -> int:
        """Somebody stands for these: whoever wants to know is told. How many of them that were."""
        raise NotImplementedError

    def no_room(self, publish: Publish) -> None:
        """It could not be stored."""
        raise NotImplementedError


class Lane(Waiter):
    """The held publishes of one lane; at least one."""

    __slots__ = ("heap", "name", "sender")

    def __init__(self, sender: Sender, name: str, gate: Gate) -> None:
        super().__init__(gate)
        self.sender = sender
        self.name = name
        #: A heap of (−priority, number of arrival, publish).
        self.heap: list[tuple[int, int, Publish]] = []

    def push(self, publish: Publish, size: int) -> None:
        """Add a publish of so many bytes."""
        heappush(self.heap, (-publish.priority, publish.arrival, publish))
        self.messages += 1
        self.bytes += size

    def pop(self) -> Publish:
        """Take out the first."""
        publish = heappop(self.heap)[2]
        self.messages -= 1
        self.bytes -= len(publish.frames)
        return publish

    def drop(self, arrivals: Container[int]) -> None:
        """Take out those with these numbers of arrival."""
        self.heap = [held for held in self.heap if held[1] not in arrivals]
        self.messages = len(self.heap)
        self.bytes = sum([len(held[2].frames) for held in self.heap])
        heapify(self.heap)
