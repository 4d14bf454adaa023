"""The broker's side of a session: what is there in the broker's place, and what becomes of the client without it.

Without a spool it is :class:`Attached` for good. With one there are others (:mod:`sidecar.amqp.failover.session`), and
a session has one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.relay.publishing import Direct, PublishPath

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session_state import SessionState
    from sidecar.core.replies import Reply
    from sidecar.exchange.filter import Again


class BrokerSide:
    """What a session asks of it. Here are the answers of a side that has no spool: nothing outlives its broker."""

    __slots__ = ()

    # -- what passes ---------------------------------------------------------------------------------------------------

    def publish_path(self, channel: Channel) -> PublishPath:
        """The path for the publishes of a new channel."""
        raise NotImplementedError

    def login(self, frame: bytes) -> None:
        """A frame of the client's handshake. Raises :class:`AmqpError`."""
        raise NotImplementedError

    def request(self, frames: bytes) -> bytes:
        """What the client asks of the broker (no publishes, deliveries or settlements): what is to be written to it."""
        return frames

    def new_secret(self, secret: bytes) -> bytes | None:
        """``connection.update-secret``: what goes on in its place."""
        return None

    def handshake_said(self, method: int, data: bytes, start: int, end: int) -> None:
        """The broker says this in the handshake."""

    def answered(self, number: int, method: int, data: bytes, start: int, end: int) -> None:
        """The broker says this on a channel, and it is neither a delivery nor a confirm."""

    def opened(self) -> None:
        """The handshake is over."""

    def channel_gone(self, number: int) -> None:
        """A channel does not exist any more."""

    # -- without a broker, for the time being --------------------------------------------------------------------------

    @property
    def has_channels(self) -> bool:
        """There is a broker that knows the client's channels, or is about to."""
        return True

    @property
    def client_may_be_silent(self) -> bool:
        """The client waits for an answer and sends no heartbeats meanwhile."""
        return False

    def overtakes(self, channel: Channel, frame: bytes) -> bool:
        """A frame that must not overtake what is held: whether it need not wait all the same, and was taken."""
        return False

    def waits(self, number: int) -> bool:
        """Whether a channel waits for a broker, not only for what is held."""
        return False

    def answer(self) -> None:
        """Let the client hear what is said in the broker's place."""

    def look(self, now: float) -> None:
        """Now and then: something may have waited for too long."""

    # -- connections to brokers: whether it is for this side to see to what they hear ----------------------------------

    def connected(self, broker: BrokerConnection) -> bool:
        """A socket stands."""
        return False

    def said(self, broker: BrokerConnection, data: bytes) -> bool:
        """Bytes came."""
        return False

    def closed(self, code: int, text: str) -> bool:
        """The broker says ``connection.close``."""
        return False

    def lost(self, broker: BrokerConnection) -> bool:
        """A connection is gone."""
        return False

    # -- a client that comes while there is none: whether it is received here ------------------------------------------

    def begins_try(self) -> bool:
        """A broker is to be dialled."""
        return False

    def retries_later(self, again: Again) -> bool:
        """None could be had; another try is due."""
        return False

    def replies(self, reply: Reply) -> bool:
        """None can be had."""
        return False

    # -- the end -------------------------------------------------------------------------------------------------------

    def client_leaves(self) -> None:
        """The client goes, or has gone."""

    def client_left(self) -> None:
        """Its connection is gone; that of the broker may stay for what is held."""

    def ends(self) -> None:
        """The session is about to end."""

    def ended(self) -> None:
        """It has ended."""


class Attached(BrokerSide):
    """A session without a spool: its broker is there, or it ends."""

    __slots__ = ("_session",)

    def __init__(self, session: SessionState) -> None:
        self._session = session

    def publish_path(self, channel: Channel) -> PublishPath:
        return Direct(self._session, channel.number)

    def login(self, frame: bytes) -> None:
        self._session.broker_write(frame)
