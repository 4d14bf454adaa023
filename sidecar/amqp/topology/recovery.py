"""Says again, over a new broker connection, what a client has set up over the one that is gone; sans-I/O.

First what it has declared and bound, on a channel of our own, as a client's own recovery does (aio-pika's robust
connections and the Java client do the same): the client was not told that its connection was gone, so it will not do
it, and what is not durable went with the broker. Then its channels, each with its confirm mode, its prefetch limits and
its consumers under their tags, in that order (§1.8.3.1: a limit is for the consumers that come after it). Nothing of
all this reaches the client.

What the broker does not take any more, and queues whose name only the broker can make up, cannot be had again behind
the client's back: then its connection is to be closed with 320 (connection-forced), so that its own recovery runs.
"""

from __future__ import annotations

from struct import pack
from typing import Final

from sidecar.amqp.topology.client_state import ChannelState, ClientState
from sidecar.amqp.topology.declarations import PASSIVE
from sidecar.amqp.wire.constants import (
    BASIC_QOS,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CHANNEL_OPEN,
    CONFIRM_SELECT,
    CONNECTION_FORCED,
    NOT_FOUND,
    REPLY_SUCCESS,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments, channel_close, method
from sidecar.amqp.wire.rpc import ANSWERS

#: Queues that belong to a connection which the broker has not yet noticed to be gone (§1.2 "resource-locked").
RESOURCE_LOCKED: Final = 405
_ANSWERS: Final = frozenset(ANSWERS.values())


class Unrecoverable(AmqpError):
    """What a client had set up cannot be had again: its connection is to be closed with this. ``passing``: it may be
    different when the broker has buried the old connection (an exclusive queue is still locked, an auto-delete one
    went just now); then another try makes sense, a second later and over another connection."""

    def __init__(self, reason: str, passing: bool) -> None:
        AmqpError.__init__(self, CONNECTION_FORCED, f"CONNECTION_FORCED - the broker connection was lost, and {reason}")
        self.passing = passing


class TopologyRecovery:
    """Sets up again, over a broker connection that is open, what a client had set up over the last one. ``channel_max``
    is what was agreed on with the broker (0: 65535)."""

    __slots__ = ("_awaited", "_channel_max", "_client_state", "_own", "done")

    def __init__(self, client_state: ClientState, channel_max: int) -> None:
        self._client_state = client_state
        self._channel_max = channel_max or 65_535
        #: Our own channel, while it is open.
        self._own = 0
        #: Channel → the answers that are still to come on it.
        self._awaited: dict[int, int] = {}
        #: Everything is as it was.
        self.done = False

    def begin(self) -> bytes:
        """What to tell the broker first. From here on the broker stub answers nothing that would have to be set up,
        too. Raises :class:`Unrecoverable`."""
        client_state = self._client_state
        reason = client_state.irretrievable()
        if not reason and (name := client_state.lost_name()):
            reason = f"the queue '{name}', which the broker had named, went with it"
        if not reason and any(number > self._channel_max for number in client_state.channels):
            reason = "the new one does not allow as many channels"
        if reason:
            raise Unrecoverable(reason, False)
        client_state.recovering = True
        found = [each for each in client_state.declared.values() if not (each.server_named or each.bits & PASSIVE)]
        if not found:
            return self._channels()
        free = (n for n in range(1, self._channel_max + 1) if n not in client_state.channels)
        self._own = own = next(free, 1)  # if none is: the client's first one is not open here yet
        self._awaited[own] = len(found) + 1
        return method(own, CHANNEL_OPEN, b"\x00") + b"".join([declaration.frame(own) for declaration in found])

    @property
    def opened(self) -> bool:
        """The client's channels are being opened, or are."""
        return not self._own

    def said(self, number: int, found: int, data: bytes, start: int, end: int) -> bytes | None:
        """The broker has said this method on a channel: what to say to that, empty for nothing; ``None``: it is for the
        client (deliveries to the consumers that are back). Raises :class:`Unrecoverable`; then this broker connection
        is of no use to anybody."""
        if number not in self._awaited or (found not in _ANSWERS and found != CHANNEL_CLOSE):
            return None
        if found == CHANNEL_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            raise Unrecoverable(
                f"what was set up over it is refused now: {text or code}", code in (NOT_FOUND, RESOURCE_LOCKED)
            )
        self._awaited[number] -= 1
        if self._awaited[number]:
            return b""
        del self._awaited[number]
        if number == self._own:
            if found != CHANNEL_CLOSE_OK:
                self._awaited[number] = 1
                return channel_close(number, REPLY_SUCCESS, "")
            self._own = 0
            return self._channels()
        self.done = not self._awaited
        return b""

    def _channels(self) -> bytes:
        """The client's channels, all at once."""
        frames: list[bytes] = []
        for number, channel in self._client_state.channels.items():
            before = len(frames)
            _recover_channel(number, channel, frames)
            self._awaited[number] = len(frames) - before
        self.done = not self._awaited
        return b"".join(frames)


def _recover_channel(number: int, channel: ChannelState, frames: list[bytes]) -> None:
    """Each of these frames is answered once."""
    frames.append(method(number, CHANNEL_OPEN, b"\x00"))
    if channel.confirm:
        frames.append(method(number, CONFIRM_SELECT, b"\x00"))
    limit = -1
    shared = b""
    if channel.shared_limit >= 0:
        shared = method(number, BASIC_QOS, pack(">IHB", 0, channel.shared_limit, 1))
        frames.append(shared)
    for consumer in channel.consumers.values():
        if consumer.limit != limit:
            limit = consumer.limit
            _limit_each(number, limit, shared, frames)
        frames.append(consumer.frame(number))
    if channel.limit != limit:
        _limit_each(number, channel.limit, shared, frames)


def _limit_each(number: int, limit: int, shared: bytes, frames: list[bytes]) -> None:
    """A limit for each consumer to come. With RabbitMQ it ends that of all together, so that is said again."""
    frames.append(method(number, BASIC_QOS, pack(">IHB", 0, max(limit, 0), 0)))
    if shared:
        frames.append(shared)
