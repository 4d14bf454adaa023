"""A broker that takes publishes, without sockets: for what publishes over connections of its own.

It sits at the other end of :class:`support.loop.FakeTransport`, knows exchanges, users and messages that it dislikes,
and writes down what it has taken. It confirms at once, or when a test says so. Like the rest of the tests' brokers it
shares no code with what it tests.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack_from
from typing import Any

from support import amqp
from support.loop import FakeLoop, FakeTransport


class Taken:
    """A publish as it came: all of it."""

    def __init__(self, channel: Publishing, number: int, method: bytes) -> None:
        self.connection = channel.connection
        self.channel = channel
        self.number = number
        size = method[13]
        self.exchange = method[14 : 14 + size].decode()
        at = 14 + size
        self.key = method[at + 1 : at + 1 + method[at]].decode()
        self.bits = method[-2]
        self.header = b""
        self.body = b""
        self.missing = -1
        self.counted = False

    def __repr__(self) -> str:
        return f"<{self.exchange}/{self.key} {self.body[:20]!r}>"


class TakingBroker:
    """The broker. ``taken`` is what it has taken responsibility for (in order, whether it said so or not)."""

    def __init__(self, loop: FakeLoop) -> None:
        self.loop = loop
        self.taken: list[Taken] = []
        self.connections: list[Connection] = []
        #: User → why the broker does not let that one in: code and text.
        self.refuses: dict[str, tuple[int, str]] = {}
        self.exchanges: set[str] | None = None
        #: Exchanges that nobody may look for; which were looked for, in order; and whether there is an answer to that.
        self.hidden: set[str] = set()
        self.looked: list[str] = []
        self.tells = True
        #: How many channels a connection may have.
        self.channels = 2047
        #: A method that ends the connection, if it comes on the second channel (users may have been granted one and no
        #: more, which nobody is told before).
        self.forbids: tuple[int, int] | None = None
        #: Code and text of the close that a message leads to, if it does; negative: of the connection.
        self.dislikes: Callable[[Taken], tuple[int, str] | None] = lambda message: None
        #: Messages that get a nack.
        self.rejects: Callable[[Taken], bool] = lambda message: False
        self.routes: Callable[[Taken], bool] = lambda message: True
        #: Whether everything is answered at once.
        self.answers = True
        self.heartbeat = 0
        self.away = False
        self.dialled = 0
        #: How often a channel or a connection ended while it was in use.
        self.ends = 0

    def connect(self, publisher: Any) -> None:
        """In place of a connector."""
        self.dialled += 1
        if self.away:
            self.loop.call_soon(publisher.failed, "cannot connect: it is away")
            return
        connection = Connection(self, publisher)
        self.connections.append(connection)
        publisher.connection_made(connection.transport)
        self.loop.call_soon(connection.read)

    @property
    def open(self) -> list[Connection]:
        return [connection for connection in self.connections if not connection.transport.closing]

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.taken]

    def goes_down(self) -> None:
        self.away = True
        for connection in self.open:
            self.ends += 1
            connection.transport.lose(ConnectionResetError())
        self.loop.settle()

    def says_all(self) -> None:
        """Answer what has no answer, on all connections."""
        for connection in self.open:
            connection.answer_all()
        self.loop.settle()


class _Transport(FakeTransport):
    """Wakes the broker up."""

    def __init__(self, loop: FakeLoop, protocol: Any, connection: Connection) -> None:
        super().__init__(loop, protocol)
        self._connection = connection

    def write(self, data: bytes) -> None:
        super().write(data)
        self._loop.call_soon(self._connection.read)


class Publishing:
    """A channel that is published on."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.broker = connection.broker
        self.channel = number
        self.open = False
        self.closing = False
        self.confirming = False
        self.number = 0
        self.incoming: Taken | None = None
        #: Taken and not answered, by number.
        self.waiting: dict[int, Taken] = {}

    def method(self, found: tuple[int, int], frame: bytes) -> None:
        connection = self.connection
        if found == (20, 41):
            assert self.closing
            self.closing = False
        elif self.closing:
            pass
        elif found == (20, 10):
            assert not self.open
            if self.channel != 1 and self.broker.forbids == found:
                connection.says(amqp.close(530, "NOT_ALLOWED - that is not for you", found[0] << 16 | found[1]))
                return
            self.open = True
            self.number = 0
            connection.says(amqp.channel_open_ok(self.channel))
        elif found == (85, 10):
            assert self.open
            self.confirming = True
            connection.says(amqp.method(self.channel, 85, 11))
        elif found == (60, 40):
            assert self.confirming, "published before confirm.select"
            assert self.incoming is None, "a publish within another"
            self.number += 1
            self.incoming = Taken(self, self.number, frame)
        else:
            raise AssertionError(amqp.name(frame))

    def content(self, kind: int, frame: bytes) -> None:
        if self.closing:
            return
        incoming = self.incoming
        assert incoming is not None, "content without a publish"
        if kind == 2:
            incoming.header = frame[7:-1]
            incoming.missing = unpack_from(">Q", frame, 11)[0]
        else:
            incoming.body += frame[7:-1]
            incoming.missing -= len(frame) - 8
        if incoming.missing == 0:
            self.incoming = None
            self._whole(incoming)

    def _whole(self, message: Taken) -> None:
        broker = self.broker
        connection = self.connection
        verdict = broker.dislikes(message)
        if broker.exchanges is not None and message.exchange not in broker.exchanges:
            verdict = 404, f"NOT_FOUND - no exchange '{message.exchange}' in vhost '{connection.vhost}'"
        if verdict is not None:
            code, text = verdict
            broker.ends += 1
            if code < 0:
                connection.says(amqp.close(-code, text, 60 << 16 | 40))
                connection.transport.close()
            else:
                self.close(code, text)
            return
        if message.bits & 1 and not broker.routes(message):
            back = pack(">H", 312) + amqp.short("NO_ROUTE") + amqp.short(message.exchange) + amqp.short(message.key)
            connection.says(amqp.method(self.channel, 60, 50, back) + amqp.content(self.channel, message.body))
        self.waiting[message.number] = message
        if not broker.rejects(message):
            self._count(message)

    def _count(self, message: Taken) -> None:
        if not message.counted:
            message.counted = True
            self.broker.taken.append(message)

    def close(self, code: int, text: str, cause: int = 60 << 16 | 40) -> None:
        """What was not answered by then never is."""
        self.open = self.confirming = False
        self.closing = True
        self.incoming = None
        self.waiting.clear()
        self.connection.says(amqp.channel_close(self.channel, code, text, cause))

    def answer(self, number: int, multiple: bool = False, positive: bool = True) -> None:
        """Ack or nack, just so."""
        for taken in [each for each in self.waiting if each == number or (multiple and each <= number)]:
            message = self.waiting.pop(taken)
            if positive:
                self._count(message)
        bits = pack(">QB", number, multiple)
        self.connection.says(amqp.method(self.channel, 60, 80 if positive else 120, bits))

    def answer_all(self) -> None:
        """Runs of the same kind in one frame."""
        while self.waiting:
            numbers = sorted(self.waiting)
            verdicts = [self.broker.rejects(self.waiting[number]) for number in numbers]
            count = next((i for i, verdict in enumerate(verdicts) if verdict != verdicts[0]), len(numbers))
            if numbers[count - 1] - numbers[0] != count - 1 or count == 1:
                self.answer(numbers[0], positive=not verdicts[0])
            else:
                self.answer(numbers[count - 1], multiple=True, positive=not verdicts[0])


class Connection:
    """One connection of a publisher. Channel 1 is what it publishes on, channel 2 for looking for exchanges, channel 3
    for messages that may close it."""

    def __init__(self, broker: TakingBroker, publisher: Any) -> None:
        self.broker = broker
        self.publisher = publisher
        self.transport = _Transport(broker.loop, publisher, self)
        self.user = ""
        self.properties = b""
        self.vhost = ""
        self.main = Publishing(self, 1)
        self.apart = Publishing(self, 3)
        self.looking = False
        self.closing_looks = False
        self.frozen = False
        self.heartbeats = 0
        self._rest = b""

    @property
    def waiting(self) -> dict[int, Taken]:
        """What was taken on channel 1 and not answered."""
        return self.main.waiting

    def answer(self, number: int, multiple: bool = False, positive: bool = True) -> None:
        self.main.answer(number, multiple, positive)

    def answer_all(self) -> None:
        self.main.answer_all()
        self.apart.answer_all()

    def close_channel(self, code: int, text: str, cause: int = 60 << 16 | 40) -> None:
        self.main.close(code, text, cause)

    def says(self, *frames: bytes) -> None:
        if not self.transport.closing:
            self.transport.feed(b"".join(frames))

    def read(self) -> None:
        """Everything that came since."""
        if self.frozen:
            return
        data = self._rest + bytes(self.transport.sent)
        self.transport.sent.clear()
        if data.startswith(amqp.GREETING):
            data = data[8:]
            self.says(amqp.start())
        at = 0  # what is behind it is not copied for each frame
        while len(data) - at >= 8 and not self.transport.closing:
            end = at + 8 + unpack_from(">I", data, at + 3)[0]
            if end > len(data):
                break
            frame, at = data[at:end], end
            self._frame(frame)
        self._rest = data[at:]
        if self.broker.answers:
            self.answer_all()

    def _frame(self, frame: bytes) -> None:
        kind, channel = unpack_from(">BH", frame)
        assert frame[-1] == 0xCE
        if kind == 8:
            self.heartbeats += 1
            self.says(amqp.HEARTBEAT)
        elif kind == 1:
            self._method(channel, unpack_from(">HH", frame, 7), frame)
        else:
            assert channel in (1, 3)
            (self.main if channel == 1 else self.apart).content(kind, frame)

    def _method(self, channel: int, found: tuple[int, int], frame: bytes) -> None:
        if found == (10, 11):
            at = 11 + 4 + unpack_from(">I", frame, 11)[0]
            at += 1 + frame[at]
            size = unpack_from(">I", frame, at)[0]
            self.user = frame[at + 4 : at + 4 + size].split(b"\0")[1].decode()
            if self.user in self.broker.refuses:
                self.says(amqp.close(*self.broker.refuses[self.user]))
            else:
                self.says(amqp.tune(self.broker.channels, heartbeat=self.broker.heartbeat))
        elif found == (10, 31):
            pass
        elif found == (10, 40):
            self.vhost = frame[12 : 12 + frame[11]].decode()
            self.says(amqp.connection_open_ok())
        elif found == (10, 50):
            self.says(amqp.CLOSE_OK)
        elif found == (10, 51):
            self.transport.close()
        elif channel == 2:
            self._look(found, frame)
        else:
            assert channel in (1, 3)
            (self.main if channel == 1 else self.apart).method(found, frame)

    def _look(self, found: tuple[int, int], frame: bytes) -> None:
        """On the channel that nothing is published on."""
        if found == (20, 41):
            assert self.closing_looks
            self.closing_looks = False
        elif self.closing_looks:
            pass
        elif found == self.broker.forbids:
            self.says(amqp.close(530, "NOT_ALLOWED - that is not for you", found[0] << 16 | found[1]))
        elif found == (20, 10):
            assert not self.looking
            self.looking = True
            self.says(amqp.channel_open_ok(2))
        else:
            assert found == (40, 10), amqp.name(frame)
            assert self.looking
            exchange = frame[14 : 14 + frame[13]].decode()
            assert frame[15 + frame[13] + frame[14 + frame[13]]] == 1, "declared, not looked for"
            self.broker.looked.append(exchange)
            if self.broker.tells:
                self.tell(exchange)

    def tell(self, exchange: str) -> None:
        """Whether it is there."""
        exchanges = self.broker.exchanges
        verdict: tuple[int, str] | None = None
        if exchange in self.broker.hidden:
            verdict = 403, f"ACCESS_REFUSED - access to exchange '{exchange}' in vhost '{self.vhost}' refused"
        elif exchanges is not None and exchange not in exchanges:
            verdict = 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '{self.vhost}'"
        if verdict is None:
            self.says(amqp.method(2, 40, 11))
        else:
            self.looking = False
            self.closing_looks = True
            self.says(amqp.channel_close(2, *verdict, 40 << 16 | 10))
