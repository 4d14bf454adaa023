"""The way back to a broker, for a session that has lost its own: one is found, the client logged in there, and
everything that it had set up is set up once more before anything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.reconnect import FIRST, Reconnect
from sidecar.amqp.relay import forward
from sidecar.amqp.relay.connections import OPEN, BrokerConnection
from sidecar.amqp.topology.recovery import TopologyRecovery, Unrecoverable
from sidecar.amqp.wire.constants import METHOD, AmqpError
from sidecar.amqp.wire.methods import method_of
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.failover.session import BufferedSession

logger = logging.getLogger("sidecar.amqp")

#: How often in a row to try to set up anew what a client had.
_MOST_RESTORATIONS: Final = 10


class Recovering:
    """One session's. It is told by ``rejoin(connection)`` when there is a broker, by ``attached(connection)`` when all
    is as before; or the client hears why not."""

    __slots__ = ("_reconnect", "_recovery", "_rng", "_session", "_tries")

    def __init__(self, session: BufferedSession, rng: Random) -> None:
        self._session = session
        self._rng = rng
        self._reconnect: Reconnect | None = None
        self._recovery: TopologyRecovery | None = None
        #: How often in a row that came to nothing.
        self._tries = 0

    @property
    def is_restoring(self) -> bool:
        """There is a broker, and not everything is set up there."""
        return self._recovery is not None

    @property
    def has_opened(self) -> bool:
        """The client's channels are being opened there."""
        return self._recovery is not None and self._recovery.opened

    def search(self, pause: float = FIRST) -> None:
        """Begin (again); ``pause`` is for how many seconds to wait first, about."""
        self._recovery = None
        self._reconnect = Reconnect(self, self._session, self._rng, pause)

    def hurry(self) -> None:
        """Do not wait for the next try."""
        if self._reconnect is not None:
            self._reconnect.hurry()

    def cancel(self) -> None:
        """The session needs no broker any more."""
        reconnect, self._reconnect = self._reconnect, None
        if reconnect is not None:
            reconnect.cancel()

    # -- what the connections hear -------------------------------------------------------------------------------------

    def connected(self, broker: BrokerConnection) -> bool:
        """A socket stands; whether that is to do with this."""
        if self._reconnect is None:
            return False
        self._reconnect.connected(broker)
        return True

    def said(self, broker: BrokerConnection, data: bytes) -> bool:
        """Bytes came; whether they are to do with this."""
        if self._reconnect is not None and self._reconnect.mine(broker):
            self._reconnect.said(broker, data)
            return True
        if self._recovery is not None and broker is self._session.broker:
            frames = broker.reader.feed(data)
            self._restore(broker, broker.reader.data, frames)
            return True
        return False

    def lost(self, broker: BrokerConnection) -> bool:
        """A connection is gone; whether that was the one that is being made."""
        if self._reconnect is None or not self._reconnect.mine(broker):
            return False
        self._reconnect.lost()
        return True

    # -- what becomes of a search --------------------------------------------------------------------------------------

    def found(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """There is a broker; ``frames`` is what it has said since it has let the client in."""
        self._reconnect = None
        session = self._session
        if session.phase == ENDED or session.client.state != OPEN:
            broker.transport.close()
            return
        session.rejoin(broker)
        self._recovery = TopologyRecovery(session.client_state, session.channel_max)
        try:
            broker.write(self._recovery.begin())
        except Unrecoverable as error:
            self._failed(broker, error)
            return
        self._restore(broker, data, frames)

    def refused(self, error: AmqpError) -> None:
        """The broker will not have this client any more."""
        self._reconnect = None
        if self._session.client.state == OPEN:
            self._session.close_client(error.code, error.text)

    def _restore(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """What the broker says while things are set up."""
        session = self._session
        try:
            for index, (kind, number, start, end) in enumerate(frames):
                recovery = self._recovery
                if recovery is None:
                    forward.from_broker(session, data, frames[index:])
                    return
                answer: bytes | None = None
                if kind == METHOD:
                    answer = recovery.said(number, method_of(data, start, end), data, start, end)
                if answer is None:
                    forward.from_broker(session, data, [(kind, number, start, end)])
                else:
                    broker.write(answer)
                self._look(broker)
            if broker.reader.error is not None:
                raise broker.reader.error
            self._look(broker)
        except Unrecoverable as error:
            self._failed(broker, error)
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def _look(self, broker: BrokerConnection) -> None:
        """Whether all is as it was before."""
        if self._recovery is not None and self._recovery.done:
            self._recovery = None
            self._tries = 0
            self._session.attached(broker)

    def _failed(self, broker: BrokerConnection, error: Unrecoverable) -> None:
        """What the client had cannot be had again: it has to know, unless that may pass."""
        self._tries += 1
        if not error.passing or self._tries >= _MOST_RESTORATIONS:
            self._session.close_client(error.code, error.text)
        broker.transport.abort()
