"""What a client has set up at its broker over one connection: declarations and bindings, channels, confirm mode,
prefetch limits, consumers; and what it has asked and was not answered.

It is learnt at the broker's side of the relay: from what goes to the broker, as it goes there, and from what the broker
says. So it holds for one broker connection exactly what has to be said again over the next one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from sidecar.amqp.topology import declarations
from sidecar.amqp.topology.declarations import ENDING, STATING, Declaration
from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.methods import Arguments, method, short
from sidecar.amqp.wire.rpc import ANSWERING, ANSWERS, PendingCall, find_call, methods_in, no_wait

if TYPE_CHECKING:
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog

#: What is remembered of one connection at most; one that has set up more cannot be set up again.
MAX_DECLARATIONS: Final = 10_000
MAX_CONSUMERS: Final = 10_000
MAX_BYTES: Final = 2 * 1024 * 1024

#: What a consumer of a stream says of where to begin, and what makes a queue a stream (RabbitMQ).
_OFFSET: Final = b"\x0fx-stream-offset"
_STREAM: Final = b"\x0cx-queue-typeS\x00\x00\x00\x06stream"

#: RabbitMQ's pseudo-queue for answers, and what the broker's own names begin with.
DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"


class ConsumerState:
    """A consumer. ``limit`` is the prefetch limit that was set when it came (-1: none was); ``bits`` and ``table`` are
    its own."""

    __slots__ = ("bits", "limit", "queue", "table", "tag")

    def __init__(self, tag: bytes, queue: str, bits: int, table: bytes, limit: int) -> None:
        self.tag = tag
        self.queue = queue
        self.bits = bits
        self.table = table
        self.limit = limit

    @property
    def size(self) -> int:
        """About how many bytes it costs to remember."""
        return len(self.table) + len(self.queue) + len(self.tag) + 200

    def frame(self, channel: int) -> bytes:
        """The ``basic.consume`` that brings it about, under its tag."""
        arguments = b"\x00\x00" + short(self.queue) + bytes((len(self.tag),)) + self.tag + bytes((self.bits,))
        return method(channel, constants.BASIC_CONSUME, arguments + self.table)


class ChannelState:
    """What is set up on one channel. ``limit`` is the prefetch limit for consumers to come and ``shared_limit`` the one
    that they all share, -1 when none was set (§1.8.3.1 "global", with RabbitMQ's meaning). ``asked_limit`` is what
    ``limit`` will be when everything is answered."""

    __slots__ = ("asked", "asked_limit", "confirm", "consumers", "last_queue", "limit", "shared_limit", "tx")

    def __init__(self) -> None:
        self.confirm = False
        self.tx = False
        self.limit = -1
        self.asked_limit = -1
        self.shared_limit = -1
        self.consumers: OrderedDict[bytes, ConsumerState] = OrderedDict()
        #: What an empty queue name means: the queue declared last.
        self.last_queue = ""
        self.asked: deque[PendingCall] = deque()


class ClientState:
    """What one session has set up."""

    __slots__ = (
        "_bytes",
        "_catalog",
        "_consumers",
        "_queues",
        "_vhost",
        "channels",
        "declared",
        "forgotten",
        "recovering",
    )  # fmt: skip

    def __init__(self, catalog: BrokerCatalog, vhost: str) -> None:
        self._catalog = catalog
        self._vhost = vhost
        self.channels: dict[int, ChannelState] = {}
        #: By key, in the order in which they were stated.
        self.declared: OrderedDict[bytes, Declaration] = OrderedDict()
        #: It was too much to be remembered: nothing of this is true any more.
        self.forgotten = False
        #: It is being said again to a new broker: what is added now would be missing there.
        self.recovering = False
        #: The queues among them, and whether each is its own.
        self._queues: dict[str, bool] = {}
        self._bytes = 0
        self._consumers = 0

    # -- what goes to the broker, and what it says ---------------------------------------------------------------------

    def asks(self, data: bytes) -> None:
        """These frames of a client go to the broker."""
        for number, found, start, end in methods_in(data):
            if self.forgotten:
                return
            if found not in ANSWERS:
                continue
            if found == constants.CHANNEL_OPEN:
                self.open(number)
            channel = self.channels.get(number)
            if channel is None:
                continue
            if found == constants.BASIC_QOS and (limit := _limit(data, start, end)) >= 0:
                channel.asked_limit = limit
            asked = PendingCall(found, data[start:end], no_wait(found, data, start, end), channel.asked_limit)
            channel.asked.append(asked)
            self._grow(end - start + 100)

    def answers(self, number: int, found: int, data: bytes, start: int, end: int) -> None:
        """The broker says this method on a channel. Answers come in the order of the questions, but for those about
        consumers: with RabbitMQ it is the queue that sends them, sooner or later."""
        if self.forgotten:
            return
        channel = self.channels.get(number)
        if channel is None:
            return
        if found == constants.BASIC_CANCEL:
            self._cancelled(channel, Arguments(data, start, end).short_bytes())
            return
        if found not in ANSWERING:
            return
        if found == constants.BASIC_GET_EMPTY:
            found = constants.BASIC_GET_OK
        tag = b""
        if found in (constants.BASIC_CONSUME_OK, constants.BASIC_CANCEL_OK):
            tag = Arguments(data, start, end).short_bytes()
        place = find_call(channel.asked, found, tag)
        if place < 0:
            return  # somebody else has asked
        before = [channel.asked.popleft() for _ in range(place)]
        answered = channel.asked.popleft()
        channel.asked.extendleft([each for each in reversed(before) if not each.no_wait])
        for each in before:
            if each.no_wait:
                self._settled(number, each, b"")
        self._settled(number, answered, data[start:end])

    def _settled(self, number: int, asked: PendingCall, answer: bytes) -> None:
        if self.forgotten:
            return
        self._bytes -= len(asked.frame) + 100
        try:
            self.done(number, asked.method, asked.frame, answer, asked.limit)
        except AmqpError:
            # One side has said what we do not understand: no reason to bother anybody, as long as both are there.
            self.forget()

    def done(self, number: int, found: int, frame: bytes, answer: bytes, limit: int = -2) -> None:
        """What a client has asked with ``frame`` is so; ``answer`` is the broker's (or ours), empty without one.
        ``limit`` is the prefetch limit that a consumer gets, -2: the one that is set now."""
        channel = self.channels.get(number)
        if channel is None or self.forgotten:
            return
        end = len(frame)
        if found in STATING:
            self._stated(channel, found, frame, answer)
        elif found in ENDING:
            self._ended(channel, found, frame)
        elif found == constants.BASIC_CONSUME:
            self._consumes(channel, frame, answer, channel.limit if limit == -2 else limit)
        elif found == constants.BASIC_CANCEL:
            self._cancelled(channel, Arguments(frame, 0, end).short_bytes())
        elif found == constants.BASIC_QOS:
            count = _limit(frame, 0, end)
            if count >= 0:
                channel.limit = count
                channel.shared_limit = -1  # RabbitMQ: a limit of each ends that of all together
                if limit == -2:
                    channel.asked_limit = count
            else:
                channel.shared_limit = -1 - count
        elif found == constants.CONFIRM_SELECT:
            channel.confirm = True
        elif found == constants.TX_SELECT:
            channel.tx = True
        elif found == constants.CHANNEL_CLOSE:
            self.channel_gone(number)

    def unanswered(self, channel: ChannelState) -> bytes:
        """What was asked on a channel and not answered; it is forgotten here."""
        frames = b"".join([asked.frame for asked in channel.asked])
        self._bytes -= len(frames) + 100 * len(channel.asked)
        channel.asked.clear()
        return frames

    def open(self, number: int) -> None:
        """A channel begins."""
        self.channel_gone(number)
        self.channels[number] = ChannelState()

    def channel_gone(self, number: int) -> None:
        """A channel does not exist any more."""
        channel = self.channels.pop(number, None)
        if channel is not None:
            self.unanswered(channel)
            for tag in list(channel.consumers):
                self._cancelled(channel, tag)

    # -- what is to be said again --------------------------------------------------------------------------------------

    def irretrievable(self) -> str:
        """Why this cannot outlive its connection, in words; empty when it can."""
        if self.forgotten:
            return "it has set up more than the sidecar remembers"
        for channel in self.channels.values():
            if channel.tx:
                return "a transaction ended with it"
            for consumer in channel.consumers.values():
                if self._reads_stream(consumer):
                    return f"where its consumer was in the stream '{consumer.queue}' is not known"
        return ""

    def _reads_stream(self, consumer: ConsumerState) -> bool:
        """It reads a stream: it would begin anew, or miss what came meanwhile."""
        if _OFFSET in consumer.table:
            return True
        return any(
            _STREAM in declaration.table
            for declaration in self.declared.values()
            if declaration.method == constants.QUEUE_DECLARE and declaration.name == consumer.queue
        )

    def lost_name(self) -> str:
        """A queue that ends with the connection and that nobody can declare again, as the broker made up its name."""
        for declaration in self.declared.values():
            if declaration.server_named and declaration.transient:
                return declaration.name
        return ""

    def has_queue(self, name: str) -> bool:
        """Whether this session has declared a queue of this name."""
        return name in self._queues

    def has_own_queue(self, name: str) -> bool:
        """Whether it has declared a queue of this name for itself (:attr:`Declaration.own`)."""
        return self._queues.get(name, False)

    def state(self, declaration: Declaration) -> None:
        """It is so, for as long as nobody ends it."""
        if declaration.key not in self.declared:
            self.declared[declaration.key] = declaration
            if declaration.method == constants.QUEUE_DECLARE:
                self._queues[declaration.name] = declaration.own
            if len(self.declared) > MAX_DECLARATIONS:
                self.forget()
            else:
                self._grow(declaration.size)

    def forget(self) -> None:
        """Give up."""
        self.forgotten = True
        self.channels.clear()
        self.declared.clear()
        self._queues.clear()
        self._bytes = 0
        self._consumers = 0

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_BYTES:
            self.forget()

    def _stated(self, channel: ChannelState, found: int, frame: bytes, answer: bytes) -> None:
        declaration, _ = declarations.read(found, frame, 0, len(frame), channel.last_queue)
        if found == constants.QUEUE_DECLARE and answer:
            name = Arguments(answer, 0, len(answer)).short()
            if not declaration.name:
                declaration = named(declaration, name)
            channel.last_queue = name
        if not declaration.exclusive:  # nobody else has any use for that
            self._catalog.learn(self._vhost, declaration)
        if not declaration.passive:
            self.state(declaration)

    def _ended(self, channel: ChannelState, found: int, frame: bytes) -> None:
        if found in (constants.QUEUE_UNBIND, constants.EXCHANGE_UNBIND):
            declaration = declarations.read(found, frame, 0, len(frame), channel.last_queue)[0]
            self._catalog.forget(self._vhost, declaration)
            self._end(declaration.key)
            self._unbound(declaration.other)
            return
        arguments = Arguments(frame, 0, len(frame))
        arguments.skip(2)
        name = arguments.short()
        if found == constants.QUEUE_DELETE:
            self._gone(declarations.QUEUE, name or channel.last_queue)
        else:
            self._gone(declarations.EXCHANGE, name)

    def _gone(self, kind: str, name: str) -> None:
        """A queue or an exchange is no more, and so are its bindings; with them may go exchanges that end unused."""
        if kind == declarations.QUEUE:
            self._catalog.forget_queue(self._vhost, name)
        else:
            self._catalog.forget_exchange(self._vhost, name)
        named = kind + name
        ended = [declaration for declaration in self.declared.values() if named in declaration.names()]
        for declaration in ended:
            self._end(declaration.key)
        for source in {declaration.other for declaration in ended if declaration.other}:
            self._unbound(source)

    def _unbound(self, exchange: str) -> None:
        """A binding to that exchange has ended: if it was the last one, the exchange may have, too."""
        own = next(
            (f for f in self.declared.values() if f.method == constants.EXCHANGE_DECLARE and f.name == exchange), None
        )
        if own is not None and own.ends_unused and all(each.other != exchange for each in self.declared.values()):
            self._gone(declarations.EXCHANGE, exchange)

    def _unused(self, queue: str) -> None:
        """A consumer of that queue has ended: if it was the last one, the queue may have, too."""
        own = next((f for f in self.declared.values() if f.method == constants.QUEUE_DECLARE and f.name == queue), None)
        if own is None or not own.ends_unused:
            return
        for channel in self.channels.values():
            if any(consumer.queue == queue for consumer in channel.consumers.values()):
                return
        self._gone(declarations.QUEUE, queue)

    def end(self) -> None:
        """The client's connection has ended: what ends with it nobody needs to know any more."""
        for channel in list(self.channels):
            self.channel_gone(channel)
        for declaration in [declaration for declaration in self.declared.values() if declaration.exclusive]:
            self._gone(declarations.QUEUE, declaration.name)

    def _end(self, key: bytes) -> None:
        declaration = self.declared.pop(key, None)
        if declaration is not None:
            self._bytes -= declaration.size
            if declaration.method == constants.QUEUE_DECLARE:
                self._queues.pop(declaration.name, None)

    def _consumes(self, channel: ChannelState, frame: bytes, answer: bytes, limit: int) -> None:
        arguments = Arguments(frame, 0, len(frame))
        arguments.skip(2)
        queue = arguments.short() or channel.last_queue
        tag = arguments.short_bytes()
        bits = arguments.u8() & ~8  # no-wait: it is to be answered when it is said again
        table = arguments.long_bytes()
        if answer:
            tag = Arguments(answer, 0, len(answer)).short_bytes()
        if not tag:
            return  # nobody will ever know its tag
        self._cancelled(channel, tag)
        consumer = ConsumerState(tag, queue, bits, len(table).to_bytes(4, "big") + table, limit)
        channel.consumers[tag] = consumer
        self._consumers += 1
        self._catalog.learn(self._vhost, declarations.exists(constants.QUEUE_DECLARE, queue))
        if self._consumers > MAX_CONSUMERS:
            self.forget()
        else:
            self._grow(consumer.size)

    def _cancelled(self, channel: ChannelState, tag: bytes) -> None:
        consumer = channel.consumers.pop(tag, None)
        if consumer is not None:
            self._consumers -= 1
            self._bytes -= consumer.size
            self._unused(consumer.queue)


def _limit(data: bytes, start: int, end: int) -> int:
    """The prefetch limit for consumers to come that a ``basic.qos`` sets; negative, -1 - it: for all together."""
    arguments = Arguments(data, start, end)
    arguments.skip(4)
    count = arguments.u16()
    return -1 - count if arguments.u8() & 1 else count


def named(declaration: Declaration, name: str) -> Declaration:
    """A queue that was declared without a name has got this one."""
    new = Declaration(constants.QUEUE_DECLARE, name, "", short(name), declaration.bits, declaration.table)
    new.server_named = True
    return new
