"""One message on its way from a client to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.flow.lanes import Sender
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.flow.tracing import PublishTrace

#: The header that tells a message from all others, so that its second delivery can be recognised.
ID_HEADER: Final = "x-sidecar-id"


class Publish:
    """One whole message of a client. ``tag`` is the client's number of it in confirm mode, 0 without; ``frames`` are
    all its frames, ready to be written, and empty once they were passed on; ``priority`` is 0 to 255; ``since`` is when
    it came, in the loop's time; ``trace`` is set when a span of it is, or may be, to be recorded.

    One that is ``shared`` stands for a run of them that passed on at once, or for such runs that came within a moment,
    and has the first one's tag and time."""

    __slots__ = (
        "arrival", "frames", "priority", "route", "sender", "shared", "since", "spools", "tag", "trace",
        "waits_for",
    )  # fmt: skip

    def __init__(
        self, sender: Sender, route: PublishRoute, tag: int, frames: bytes, priority: int, since: float
    ) -> None:
        self.sender = sender
        self.route = route
        self.tag = tag
        self.frames = frames
        self.priority = priority
        self.since = since
        self.trace: PublishTrace | None = None
        #: Its place in the order in which publishes came, as far as they were held; 0: it was not.
        self.arrival = 0
        #: Its gate has sent it to the spool, where it goes once those before it are confirmed.
        self.spools = False
        #: What it waits for, or why it goes elsewhere, for people; empty: nothing.
        self.waits_for = ""
        self.shared = False

    def one(self, tag: int) -> Publish:
        """The one with that tag among those that it stands for."""
        return Publish(self.sender, self.route, tag, b"", self.priority, self.since)
