"""What a publisher tells its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sidecar.amqp.publisher.connection import Publisher
    from sidecar.amqp.wire.constants import AmqpError


class Callbacks(Protocol):
    """Methods that a publisher calls. They must not raise. ``token`` is what came with the message. Messages may be
    sent from within all of them, but not after :meth:`lost`."""

    def ready(self, publisher: Publisher) -> None:
        """It can be given messages."""

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        """The broker has these messages (``basic.ack``), or could not take them this time (``basic.nack``)."""

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """No queue wanted this one, which was ``mandatory`` (``basic.return``); that it was taken comes after it."""

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """The broker closed the channel, or the connection, because of this one, or its exchange is missing."""

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        """The broker has an alarm and takes nothing from this connection, or takes again."""

    def writable(self, publisher: Publisher) -> None:
        """What was given has left; see :attr:`Publisher.full`."""

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        """The connection is gone, or never was; ``left`` is what was given and not answered, in order of what was sent
        first. Nothing comes after this."""
