"""Notices a broker that is there, and does nothing: a frozen process, a network that swallows everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session

#: Seconds without a word of the broker, and without a confirm, after which it is given up.
STUCK_SECONDS: Final = 5.0


class Watchdog:
    """Looks at the broker of one session."""

    __slots__ = ("_broker", "_reads", "_session", "_since")

    def __init__(self, session: Session) -> None:
        self._session = session
        #: Who was looked at, what it has said so far (:attr:`Connection.reads`), and since when it has been so much.
        self._broker: BrokerConnection | None = None
        self._reads = 0
        self._since = session.started

    def look(self, broker: BrokerConnection, now: float) -> bool:
        """Now and then; whether it is to be given up."""
        deaf = broker.reading_paused or self._session.amqp_stats.blocked
        if broker is not self._broker or broker.reads != self._reads or deaf or not self._unanswered():
            self._broker = broker
            self._reads = broker.reads
            self._since = now
            return False
        return now - self._since > STUCK_SECONDS

    def _unanswered(self) -> bool:
        """A publish has no confirm yet."""
        for channel in self._session.channels.values():
            confirms = channel.path.confirms
            if confirms is not None and confirms.unanswered:
                return True
        return False
