"""Deliveries that are kept back: as long as what the app needs is away, or for good because the sidecar drains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.channel import REPLIES
from sidecar.amqp.legs import OPEN, STALL_FULL
from sidecar.amqp.methods import basic_cancel

if TYPE_CHECKING:
    from sidecar.amqp.session import Session


class Stalling:
    """Those of one session. ``on``: deliveries are not handed out; ``returning``: they go back into their queues."""

    __slots__ = ("_bytes", "_session", "on", "returning")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.on = False
        self.returning = False
        self._bytes = 0

    def count(self, messages: int, size: int) -> None:
        """So many more deliveries, and bytes of them, are kept back. When that is too much, the broker is not read
        from."""
        session = self._session
        session.amqp_stats.stalled += messages
        self._bytes += size
        broker = session.broker
        if broker is not None:
            if self._bytes >= session.hold_bytes:
                broker.stop(STALL_FULL)
            elif broker.stops & STALL_FULL:
                broker.go(STALL_FULL)

    def switch(self, on: bool) -> None:
        """Keep deliveries back from now on, or hand them out again, with what was kept back."""
        if self.returning or self.on == on:
            return
        self.on = on
        if not on:
            session = self._session
            for channel in list(session.channels.values()):
                session.client_write(channel.release())

    def give_back(self) -> None:
        """No more deliveries. What was kept back goes to others, and so does what still comes."""
        if self.returning:
            return
        self.on = self.returning = True
        session = self._session
        if session.client.state != OPEN:
            return
        for channel in session.channels.values():
            for tag, kind in channel.consumers.items():
                if kind != REPLIES and not channel.ending:
                    session.broker_write(basic_cancel(channel.number, tag))
            channel.give_back()
