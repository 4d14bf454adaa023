"""What a broker has been told and has answered, read off a :class:`support.wire.Wire` in front of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from struct import unpack_from

from pamqp import base, commands, frame

METHOD, HEADER, BODY = 1, 2, 3
#: Seconds: a connection that ends so shortly before its broker ends because of that.
_WITH_IT = 2.0


@dataclass(frozen=True, slots=True)
class Had:
    """The broker has confirmed a message in one of its lives. ``routed``: it has come to a queue for certain, because
    it was ``mandatory`` and did not come back. ``published`` is when it was, in the tap's own order."""

    life: int
    routed: bool
    published: int


@dataclass(slots=True)
class _Channel:
    confirms: bool = False
    tag: int = 0
    #: Tag → body, whether it was mandatory, when.
    unconfirmed: dict[int, tuple[bytes, bool, int]] = field(default_factory=dict)
    returned: set[bytes] = field(default_factory=set)
    #: What is to be answered: queues that are declared; exchange and queue that are bound.
    declared: deque[str] = field(default_factory=deque)
    bound: deque[tuple[str, str]] = field(default_factory=deque)
    #: A message whose body is yet to come, in each direction: its method, bytes to come, body.
    coming: dict[bool, tuple[base.Frame, int, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class _Connection:
    life: int
    data: dict[bool, bytes] = field(default_factory=lambda: {True: b"", False: b""})
    channels: dict[int, _Channel] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)
    begun: bool = False


class Tap:
    """``life`` is the number of the broker's present life; :meth:`over` ends it. The bodies of messages are their
    names."""

    def __init__(self) -> None:
        self.life = 0
        #: Whether the data of a life was lost with it, in order.
        self.ends: list[bool] = []
        self._order = 0
        self._connections: dict[int, _Connection] = {}
        self._had: dict[bytes, list[Had]] = {}
        #: Since when there has been a way from an exchange to a queue: (life, exchange, queue).
        self.ways: dict[tuple[int, str, str], int] = {}
        #: Queues whose declarer went although the broker stayed.
        self.left: list[tuple[int, str, int, float]] = []
        self._durable: set[str] = set()
        self.lock = threading.Lock()

    def over(self, forgotten: bool) -> None:
        """The present life has ended, and what was durable with it, or not."""
        with self.lock:
            ended = self.life
            now = time.monotonic()
            self.left = [each for each in self.left if each[0] < ended or each[3] < now - _WITH_IT]
            self.ends.append(forgotten)
            self.life += 1
            if not forgotten:
                for life, exchange, queue in list(self.ways):
                    if life == ended and queue in self._durable:
                        self.ways[self.life, exchange, queue] = 0

    def declared(self, queue: str) -> None:
        """A durable queue is there by other means, and has been all the time."""
        with self.lock:
            self._durable.add(queue)
            self.ways[self.life, "", queue] = 0

    def had(self, body: bytes) -> list[Had]:
        """The times that the broker has confirmed it without giving it back."""
        with self.lock:
            return list(self._had.get(body, ()))

    def forget(self) -> None:
        """Of all messages so far."""
        with self.lock:
            self._had.clear()

    # -- what passes

    def __call__(self, number: int, upwards: bool, data: bytes) -> None:
        with self.lock:
            connection = self._connections.get(number)
            if connection is None:
                connection = self._connections[number] = _Connection(self.life)
            if not data:
                self._ended(number, connection)
                return
            data = connection.data[upwards] + data
            if upwards and not connection.begun and len(data) >= 8:
                connection.begun = True
                data = data[8:]
            at = 0
            while len(data) - at >= 8:
                kind, channel, size = unpack_from(">BHI", data, at)
                end = at + size + 8
                if end > len(data):
                    break
                if kind in (METHOD, HEADER, BODY):
                    self._order += 1
                    self._frame(connection, upwards, kind, channel, data[at:end])
                at = end
            connection.data[upwards] = data[at:]

    def _ended(self, number: int, connection: _Connection) -> None:
        del self._connections[number]
        if connection.life == self.life:
            now = time.monotonic()
            self.left += [(connection.life, queue, self._order, now) for queue in connection.queues]

    def _frame(self, connection: _Connection, upwards: bool, kind: int, number: int, data: bytes) -> None:
        channel = connection.channels.setdefault(number, _Channel())
        if kind == METHOD:
            method = frame.unmarshal(data)[2]
            assert isinstance(method, base.Frame)
            self._method(connection, channel, upwards, number, method)
            return
        method, left, body = channel.coming.pop(upwards)
        if kind == HEADER:
            left = unpack_from(">Q", data, 11)[0]
        else:
            body += data[7:-1]
            left -= len(data) - 8
        if left:
            channel.coming[upwards] = method, left, body
        else:
            self._message(channel, method, body)

    def _message(self, channel: _Channel, method: base.Frame, body: bytes) -> None:
        if isinstance(method, commands.Basic.Publish) and channel.confirms:
            channel.tag += 1
            channel.unconfirmed[channel.tag] = body, bool(method.mandatory), self._order
        elif isinstance(method, commands.Basic.Return):
            channel.returned.add(body)

    def _method(
        self, connection: _Connection, channel: _Channel, upwards: bool, number: int, method: base.Frame
    ) -> None:
        match method:
            case commands.Basic.Publish() | commands.Basic.Return() | commands.Basic.Deliver() | commands.Basic.GetOk():
                channel.coming[upwards] = method, 0, b""
            case commands.Channel.Open():
                connection.channels[number] = _Channel()
            case commands.Confirm.Select():
                channel.confirms = True
            case commands.Queue.Declare() if not method.passive:
                channel.declared.append(str(method.queue))
                if method.durable:
                    self._durable.add(str(method.queue))
            case commands.Queue.DeclareOk():
                if channel.declared:
                    queue = channel.declared.popleft()
                    connection.queues.add(queue)
                    self.ways.setdefault((connection.life, "", queue), self._order)
            case commands.Queue.Bind():
                channel.bound.append((str(method.exchange), str(method.queue)))
            case commands.Queue.BindOk():
                exchange, queue = channel.bound.popleft()
                self.ways.setdefault((connection.life, exchange, queue), self._order)
            case commands.Basic.Ack() | commands.Basic.Nack() if not upwards:
                self._answered(connection, channel, method)

    def _answered(
        self, connection: _Connection, channel: _Channel, method: commands.Basic.Ack | commands.Basic.Nack
    ) -> None:
        last = method.delivery_tag or 0
        for tag in [tag for tag in channel.unconfirmed if tag <= last] if method.multiple else [last]:
            body, mandatory, order = channel.unconfirmed.pop(tag)
            if body in channel.returned:
                channel.returned.discard(body)
            elif isinstance(method, commands.Basic.Ack):
                self._had.setdefault(body, []).append(Had(connection.life, mandatory, order))
