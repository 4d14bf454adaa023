"""A client that has no broker at present, and hears a stub in its place.

What the stub says goes the way of what a broker says, through the relay, once what led to it has been gone through:
it may end channels.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.amqp.failover.broker_stub import BrokerStub
from sidecar.amqp.relay import control, forward
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.constants import METHOD, AmqpError
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import method_of

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog


class Offline:
    """One client's. ``client_state`` is what it has set up, with a broker and without."""

    __slots__ = ("_late", "_replies", "_session", "_stub", "client_state")

    def __init__(self, session: Session, catalog: BrokerCatalog, vhost: str) -> None:
        self._session = session
        self.client_state = ClientState(catalog, vhost)
        self._stub = BrokerStub(self.client_state, catalog, vhost)
        #: What the stub has said and the client has not heard; and frames that overtake those that wait.
        self._replies: list[bytes] = []
        self._late: list[tuple[Channel, bytes]] = []

    @property
    def is_waiting(self) -> bool:
        """The client has asked something that only a broker can answer."""
        return self._stub.due != inf

    def waits(self, number: int) -> bool:
        """Whether a channel waits for a broker."""
        return self._stub.waits(number)

    def takes(self, frames: bytes) -> None:
        """The client asks this of the broker."""
        session = self._session
        self._replies.append(self._stub.takes(frames, session.listener.clock()))
        self._hold_back()

    def lost(self, now: float) -> None:
        """The broker is gone, or was there only for a moment: what it has not answered the stub does, or not."""
        try:
            self._replies.append(self._stub.lost(now))
        except AmqpError as error:
            self._session.fail(error)
            return
        self._hold_back()
        self.answer()

    def _hold_back(self) -> None:
        """What a channel has to say waits while something of it waits for a broker."""
        for number, channel in self._session.channels.items():
            if channel.pending is None and self._stub.waits(number):
                channel.pending = []

    def overtakes(self, channel: Channel, frame: bytes) -> bool:
        """A frame of a channel that waits: whether it need not, and makes the others pointless."""
        waiting = channel.pending
        if waiting is None or frame[0] != METHOD:
            return False
        if not self._stub.gives_up(method_of(frame, 0, len(frame)), waiting):
            return False
        self._session.pending_frames.forget(channel)
        self._late.append((channel, frame))
        return True

    def answer(self) -> None:
        """The client hears what the stub has said."""
        session = self._session
        try:
            while self._late or self._replies:
                late, self._late = self._late, []
                for channel, frame in late:
                    control.from_client(session, channel, method_of(frame, 0, len(frame)), frame, 0, len(frame))
                    session.control(frame)
                data = b"".join(self._replies)
                self._replies = []
                if data:
                    forward.from_broker(session, data, FrameReader(HANDSHAKE_FRAME_MAX).feed(data))
        except AmqpError as error:
            session.fail(error)

    def look(self, now: float) -> None:
        """Something may have waited too long."""
        try:
            self._stub.late(now)
        except AmqpError as error:
            self._session.close_client(error.code, error.text)

    def back(self) -> bytes:
        """There is a broker, with everything set up: what has waited for it, to be written to it."""
        return self._stub.back()
