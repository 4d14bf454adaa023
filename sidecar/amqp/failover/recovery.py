"""The way back to a broker, once one is found and the client logged in there: everything that it had set up is set up
once more before anything else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.offline import Detached
from sidecar.amqp.relay import forward
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.topology.recovery import TopologyRecovery, Unrecoverable
from sidecar.amqp.wire.constants import CONNECTION_FORCED, METHOD, AmqpError
from sidecar.amqp.wire.methods import connection_close_ok, method_of

if TYPE_CHECKING:
    from sidecar.amqp.failover.session import Failover
    from sidecar.amqp.relay.connections import BrokerConnection

logger = logging.getLogger("sidecar.amqp")

#: How often in a row to try to set up anew what a client had.
_MOST_RESTORATIONS: Final = 10


class Recovering(Detached):
    """There is a broker, and not everything is set up there. The client still hears the stub."""

    __slots__ = ("_recovery",)

    def __init__(self, failover: Failover) -> None:
        Detached.__init__(self, failover)
        session = failover.session
        self._recovery: TopologyRecovery | None = TopologyRecovery(failover.client_state, session.handshake.channel_max)

    @property
    def has_channels(self) -> bool:
        return self._recovery is not None and self._recovery.opened

    def begin(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """Set up the first of it; ``frames`` is what the broker has said so far."""
        recovery = self._recovery
        assert recovery is not None
        try:
            broker.write(recovery.begin())
        except Unrecoverable as error:
            self._failed(broker, error)
            return
        self._restore(broker, data, frames)

    def said(self, broker: BrokerConnection, data: bytes) -> bool:
        if broker is not self.session.broker:
            return False
        frames = broker.reader.feed(data)
        self._restore(broker, broker.reader.data, frames)
        return True

    def closed(self, code: int, text: str) -> bool:
        broker = self.session.broker
        if code != CONNECTION_FORCED or broker is None or not self.failover.outlives():
            return False
        broker.write(connection_close_ok())
        broker.transport.close()
        self.failover.lost_again(broker)
        return True

    def lost(self, broker: BrokerConnection) -> bool:
        if broker is not self.session.broker or self.session.client.state != OPEN:
            return False
        self.failover.lost_again(broker)
        return True

    def _restore(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """What the broker says while things are set up."""
        session = self.session
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
            self.failover.reattach(broker)

    def _failed(self, broker: BrokerConnection, error: Unrecoverable) -> None:
        """What the client had cannot be had again: it has to know, unless that may pass."""
        failover = self.failover
        failover.tries += 1
        if not error.passing or failover.tries >= _MOST_RESTORATIONS:
            self.session.lifecycle.close_client(error.code, error.text)
        broker.transport.abort()
