"""A client that has no broker at present: it hears a stub in its place, while another broker is looked for.

What the stub says goes the way of what a broker says, through the relay, once what led to it has been gone through: it
may end channels.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.amqp.failover.broker_stub import BrokerStub
from sidecar.amqp.failover.buffered_path import Buffered
from sidecar.amqp.failover.reconnect import Reconnect
from sidecar.amqp.failover.side import FailoverSide
from sidecar.amqp.relay import control, forward
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.constants import CONNECTION_UPDATE_SECRET_OK, METHOD, AmqpError
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import method, method_of
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.failover.session import Failover
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog


class StubConversation:
    """One client's with its stub. ``client_state`` is what it has set up, with a broker and without."""

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
            self._session.lifecycle.fail(error)
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
        pending = channel.pending
        if pending is None or frame[0] != METHOD:
            return False
        if not self._stub.gives_up(method_of(frame, 0, len(frame)), pending):
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
                    session.side.request(frame)
                data = b"".join(self._replies)
                self._replies = []
                if data:
                    forward.from_broker(session, data, FrameReader(HANDSHAKE_FRAME_MAX).feed(data))
        except AmqpError as error:
            session.lifecycle.fail(error)

    def look(self, now: float) -> None:
        """Something may have waited too long."""
        try:
            self._stub.late(now)
        except AmqpError as error:
            self._session.lifecycle.close_client(error.code, error.text)

    def back(self) -> bytes:
        """There is a broker, with everything set up: what has waited for it, to be written to it."""
        return self._stub.back()


class Detached(FailoverSide):
    """A stub answers the client."""

    __slots__ = ()

    def request(self, frames: bytes) -> bytes:
        self.failover.stub.takes(frames)
        return b""

    def new_secret(self, secret: bytes) -> bytes | None:
        FailoverSide.new_secret(self, secret)
        self.session.client_write(method(0, CONNECTION_UPDATE_SECRET_OK))
        return b""

    @property
    def has_channels(self) -> bool:
        return False

    @property
    def client_may_be_silent(self) -> bool:
        # py-amqp, for one, while it blocks in a declaration.
        return self.failover.stub.is_waiting

    def overtakes(self, channel: Channel, frame: bytes) -> bool:
        path = channel.path
        assert isinstance(path, Buffered)
        return not path.held and not path.storing and self.failover.stub.overtakes(channel, frame)

    def waits(self, number: int) -> bool:
        return self.failover.stub.waits(number)

    def answer(self) -> None:
        self.failover.stub.answer()

    def look(self, now: float) -> None:
        if self.session.client.state == OPEN:
            self.failover.stub.look(now)

    def ended(self) -> None:
        FailoverSide.ended(self)
        session = self.session
        session.detached = False
        session.amqp_stats.detached -= 1
        self.failover.port.left(self.failover.hurry_back)


class Offline(Detached):
    """There is no broker, and one is looked for; ``pause``: after about so many seconds."""

    __slots__ = ("_reconnect",)

    def __init__(self, failover: Failover, pause: float) -> None:
        FailoverSide.__init__(self, failover)
        self._reconnect: Reconnect | None = Reconnect(self, pause)

    def hurry(self) -> None:
        """Do not wait for the next try."""
        if self._reconnect is not None:
            self._reconnect.hurry()

    def connected(self, broker: BrokerConnection) -> bool:
        if self._reconnect is None:
            return False
        self._reconnect.connected(broker)
        return True

    def said(self, broker: BrokerConnection, data: bytes) -> bool:
        if self._reconnect is None or not self._reconnect.mine(broker):
            return False
        self._reconnect.said(broker, data)
        return True

    def lost(self, broker: BrokerConnection) -> bool:
        if self._reconnect is None or not self._reconnect.mine(broker):
            return False
        self._reconnect.lost()
        return True

    def ends(self) -> None:
        reconnect, self._reconnect = self._reconnect, None
        if reconnect is not None:
            reconnect.cancel()
        FailoverSide.ends(self)

    # -- what becomes of the search ------------------------------------------------------------------------------------

    def found(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """There is a broker; ``frames`` is what it has said since it has let the client in."""
        self._reconnect = None
        session = self.session
        if session.phase == ENDED or session.client.state != OPEN:
            broker.transport.close()
        else:
            self.failover.rejoin(broker, data, frames)

    def refused(self, error: AmqpError) -> None:
        """The broker will not have this client any more."""
        self._reconnect = None
        if self.session.client.state == OPEN:
            self.session.lifecycle.close_client(error.code, error.text)
