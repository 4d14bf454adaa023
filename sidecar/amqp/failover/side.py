"""The broker's side of a session with a spool: what all of them do, and the one that has its broker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.buffered_path import Buffered
from sidecar.amqp.failover.server_handshake import renewed
from sidecar.amqp.relay.broker_side import BrokerSide
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.opening import NO_BROKER_CODES
from sidecar.amqp.relay.session_state import DIALLING, HANDSHAKE, RUNNING
from sidecar.amqp.wire.constants import ACCESS_REFUSED, CHANNEL_CLOSE, CONNECTION_FORCED
from sidecar.amqp.wire.methods import connection_close_ok, method_of
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.failover.session import Failover
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.publishing import PublishPath
    from sidecar.amqp.relay.session import Session
    from sidecar.core.replies import Reply
    from sidecar.exchange.filter import Again

logger = logging.getLogger("sidecar.amqp")

#: Seconds for which a broker that could not be reached is not tried for the next client.
_AWAY_SECONDS: Final = 1.0
#: Why a client has no broker, if others would have none either.
_NO_BROKER: Final = NO_BROKER_CODES | {"local_shortage"}


class FailoverSide(BrokerSide):
    """What is the same with a broker and without."""

    __slots__ = ("failover", "session")

    def __init__(self, failover: Failover) -> None:
        self.failover = failover
        self.session: Session = failover.session

    def publish_path(self, channel: Channel) -> PublishPath:
        handshake = self.session.handshake
        path = Buffered(channel, self.failover.port.intake)
        path.origin = f"{handshake.user} ({handshake.product})"
        path.user = handshake.identity
        return path

    def login(self, frame: bytes) -> None:
        self.session.broker_write(frame)

    def new_secret(self, secret: bytes) -> bytes | None:
        handshake = self.session.handshake
        handshake.response = renewed(handshake.mechanism, handshake.response, secret)
        self.failover.port.vouched(handshake)
        return None

    def handshake_said(self, method: int, data: bytes, start: int, end: int) -> None:
        self.failover.port.catalog.hears(method, data, start, end)

    def answered(self, number: int, method: int, data: bytes, start: int, end: int) -> None:
        self.failover.client_state.answers(number, method, data, start, end)

    def opened(self) -> None:
        self.failover.opened()

    def channel_gone(self, number: int) -> None:
        self.failover.client_state.channel_gone(number)

    def client_leaves(self) -> None:
        now = self.session.listener.clock()
        for path in self.failover.paths():
            path.leaving = min(path.leaving, now)

    def client_left(self) -> None:
        session = self.session
        broker = session.broker
        if session.alarmed and broker is not None and session.phase != ENDED and session.departure.matters:
            # The broker does not read from this connection. What it has not confirmed, and what is held, is spooled.
            broker.transport.abort()

    def ends(self) -> None:
        session = self.session
        if session.counted and session.broker is not None:
            self.failover.port.seen(session.handshake)
        now = session.listener.clock()
        for path in self.failover.paths():
            path.broker_lost(now)

    def ended(self) -> None:
        self.failover.client_state.end()


class Recorded(FailoverSide):
    """The broker is there. What the client sets up is recorded, so that it can be set up again."""

    __slots__ = ()

    def request(self, frames: bytes) -> bytes:
        if self._leaves_channel(frames):
            return b""
        self.failover.client_state.asks(frames)
        return frames

    def _leaves_channel(self, frames: bytes) -> bool:
        """A channel is to be closed, and waits with that for the broker's word on what was published there."""
        if len(frames) < 12 or method_of(frames, 0, len(frames)) != CHANNEL_CLOSE:
            return False
        session = self.session
        channel = session.channels.get(frames[1] << 8 | frames[2])
        if channel is None:
            return False
        path = channel.path
        assert isinstance(path, Buffered)
        if not path.unconfirmed:
            return False
        path.leaving = min(path.leaving, session.listener.clock())
        channel.pending = []
        session.pending_frames.add(channel, frames)
        return True

    def look(self, now: float) -> None:
        session = self.session
        broker = session.broker
        if broker is not None and session.stage == RUNNING and self.failover.watchdog.look(broker, now):
            logger.warning("the broker at %s answers nothing any more", broker.endpoint.address)
            broker.transport.abort()
        elif not session.amqp_stats.blocked:
            for path in self.failover.paths():
                if path.look(now) and not path.held and not path.storing:
                    path.emptied()

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def closed(self, code: int, text: str) -> bool:
        session = self.session
        if code == ACCESS_REFUSED and session.stage == HANDSHAKE:
            self.failover.port.credential_cache.refused(session.handshake.mechanism, session.handshake.response)
        broker = session.broker
        if code != CONNECTION_FORCED or broker is None or not self.failover.outlives():
            return False
        broker.write(connection_close_ok())
        broker.transport.close()
        self.failover.detach(broker, f"{code} {text}")
        return True

    def lost(self, broker: BrokerConnection) -> bool:
        if broker is not self.session.broker or not self.failover.outlives():
            return False
        self.failover.detach(broker, "connection lost")
        return True

    # -- a client that comes while there is none -----------------------------------------------------------------------

    def begins_try(self) -> bool:
        session = self.session
        away = session.listener.clock() - self.failover.port.missed < _AWAY_SECONDS
        if (
            session.attempts
            or not away
            or not all(each.ejected_until or each.down for each in session.cluster.endpoints)
        ):
            return False
        self.failover.receive()  # it was not there a moment ago
        return True

    def retries_later(self, again: Again) -> bool:
        if again.delay <= 0:
            return False
        self.failover.port.missed = self.session.listener.clock()
        self.failover.receive()
        return True

    def replies(self, reply: Reply) -> bool:
        session = self.session
        if reply.code not in _NO_BROKER or session.phase == ENDED:
            return False
        if session.client.state != OPEN or session.stage != DIALLING:
            return False
        self.failover.port.missed = session.listener.clock()
        session.port.turned_away(reply)
        self.failover.receive()
        return True
