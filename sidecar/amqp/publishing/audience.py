"""Who gives a publisher its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.amqp.publishing.publisher import Publisher
    from sidecar.amqp.spec import AmqpError


class Audience:
    """The base of what implements it. Its methods must not raise. ``token`` is what
    came with the message. May send from within all of them, but not after :meth:`lost`."""

    __slots__ = ()

    def ready(self, publisher: Publisher) -> None:
        """It can be given messages."""
        raise NotImplementedError

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        """The broker has these messages (``basic.ack``), or could not take them this time (``basic.nack``)."""
        raise NotImplementedError

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """No queue wanted this one, which was ``mandatory`` (``basic.return``); that it was taken comes after it."""
        raise NotImplementedError

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """The broker closed the channel, or the connection, because of this one."""
        raise NotImplementedError

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        """The broker has an alarm and takes nothing from this connection, or takes again."""
        raise NotImplementedError

    def writable(self, publisher: Publisher) -> None:
        """What was given has left; see :attr:`Publisher.full`."""
        raise NotImplementedError

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        """The connection is gone, or never was; ``left`` is what was given and not answered, in order of what was sent
        first. Nothing comes after this."""
        raise NotImplementedError
