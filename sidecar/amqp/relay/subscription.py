"""A consumer as it was asked for, so that it can be cancelled and begun again without its client."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.wire.constants import BASIC_CONSUME, BASIC_QOS
from sidecar.amqp.wire.methods import method

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel

#: Among the bits of ``basic.consume``.
_EXCLUSIVE: Final = 4
_NO_WAIT: Final = 8


class Subscription:
    """One (§1.8.3.3 "basic.consume"). ``queue`` is empty while it is not known which one an empty name meant; ``limit``
    is the prefetch limit that it was begun with (0: none). ``away``: we have cancelled it, and it is to come back."""

    __slots__ = ("_bits", "_table", "away", "limit", "queue")

    def __init__(self, queue: bytes, bits: int, table: bytes, limit: int) -> None:
        self.queue = queue
        self.limit = limit
        self.away = False
        self._bits = bits
        self._table = table

    @property
    def exclusive(self) -> bool:
        """Nobody else may consume from its queue."""
        return bool(self._bits & _EXCLUSIVE)

    def frame(self, channel: int, tag: bytes) -> bytes:
        """The ``basic.consume`` that begins it again under its tag, and wants no answer."""
        names = b"\x00\x00" + bytes((len(self.queue),)) + self.queue + bytes((len(tag),)) + tag
        return method(channel, BASIC_CONSUME, names + bytes((self._bits | _NO_WAIT,)) + self._table)


def resume(channel: Channel) -> bytes:
    """Begin the consumers of a channel again that are away, each with its own prefetch limit: what to tell the
    broker."""
    frames: list[bytes] = []
    limit = channel.limit
    for tag, subscription in channel.subscriptions.items():
        if subscription.away:
            subscription.away = False
            if subscription.limit != limit:
                limit = subscription.limit
                _set_limit(channel, limit, frames)
            frames.append(subscription.frame(channel.number, tag))
    if limit != channel.limit:
        _set_limit(channel, channel.limit, frames)
    return b"".join(frames)


def _set_limit(channel: Channel, limit: int, frames: list[bytes]) -> None:
    """That of each consumer to come. With RabbitMQ it ends the limit of all together, so that is set once more."""
    frames.append(method(channel.number, BASIC_QOS, pack(">IHB", 0, limit, 0)))
    channel.qos_asked.append(False)
    if channel.shared_limit >= 0:
        frames.append(method(channel.number, BASIC_QOS, pack(">IHB", 0, channel.shared_limit, 1)))
        channel.qos_asked.append(False)
