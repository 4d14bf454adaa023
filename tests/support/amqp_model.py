"""A client and a broker that keep to AMQP's rules, with memories: whatever stands between them must not make one of
them see the other break a rule. They play on a :class:`support.amqp.Stage`."""

from __future__ import annotations

from collections import deque
from struct import unpack_from

from support import amqp
from support.amqp import CLOSE_OK, Peer, cut, name, plain

#: Methods that the models tell apart.
START_OK, TUNE_OK, OPEN, CLOSE, CLOSED = (10, 11), (10, 31), (10, 40), (10, 50), (10, 51)
CHANNEL_OPEN, CHANNEL_CLOSE, CHANNEL_CLOSED = (20, 10), (20, 40), (20, 41)


class Broken(AssertionError):
    """The other side broke a rule."""


class Content:
    """A publish or delivery that is coming in."""

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        self.left = -1
        self.body = b""

    def add(self, kind: int, payload: bytes) -> bool:
        """A header or body frame; whether it is whole now."""
        if kind == 2:
            if self.left >= 0:
                raise Broken("two headers")
            self.left = int(unpack_from(">Q", payload, 4)[0])
        else:
            if self.left < len(payload):
                raise Broken("a body that is too long, or without header")
            self.left -= len(payload)
            self.body += payload
        return self.left == 0


class BrokerChannel:
    def __init__(self) -> None:
        #: We have sent a close and ignore everything but its answer.
        self.closing = False
        self.coming: Content | None = None
        self.confirm = False
        self.published = 0
        self.unconfirmed: list[int] = []
        self.consumers: dict[str, bool] = {}
        self.tag = 0
        self.unacked: set[int] = set()


class Broker:
    """Reads when told to (:meth:`turn`), answers at once what wants an answer, and remembers what was published:
    (exchange, routing key, body) in order."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.channels: dict[int, BrokerChannel] = {}
        self.published: list[tuple[str, str, bytes]] = []
        self.closing = False
        self.over = False
        self.blocked = False
        self._rest = b""

    def say(self, *frames: bytes) -> None:
        self.peer.says(*frames)

    def turn(self) -> None:
        """Read everything there is."""
        data = self._rest + self.peer.heard()
        self._rest = b""
        answers: list[bytes] = []
        for frame in cut(data):
            if not self.over:  # RabbitMQ, too, drops what comes behind a close
                self._frame(plain(frame), answers)
        if answers:
            self.say(*answers)

    def _frame(self, frame: bytes, answers: list[bytes]) -> None:
        kind, number = unpack_from(">BH", frame)
        payload = frame[7:-1]
        if frame[-1] != 0xCE or kind not in (1, 2, 3, 8):
            raise Broken(f"no frame: {frame!r}")
        if kind == 8:
            return
        found = unpack_from(">HH", payload) if kind == 1 else (0, 0)
        arguments = payload[4:]
        if self.closing:
            if found == CLOSED:
                self.over = True
                self.peer.leaves()
            elif found == CLOSE:
                answers.append(CLOSE_OK)
            return
        if number == 0:
            if found == CLOSE:
                answers.append(CLOSE_OK)
                self.over = True
            else:
                raise Broken(name(frame))
            return
        channel = self.channels.get(number)
        if channel is None:
            if found != CHANNEL_OPEN:
                raise Broken(f"on a channel that is not open: {name(frame)}")
            self.channels[number] = BrokerChannel()
            answers.append(amqp.channel_open_ok(number))
            return
        if channel.closing:
            if found == CHANNEL_CLOSED:
                del self.channels[number]
            elif found == CHANNEL_CLOSE:
                answers.append(amqp.channel_close_ok(number))
            return
        if kind != 1:
            if channel.coming is None:
                raise Broken(f"content out of place: {name(frame)}")
            if channel.coming.add(kind, payload):
                self._published(number, channel, channel.coming)
                channel.coming = None
            return
        if channel.coming is not None:
            raise Broken(f"inside a publish: {name(frame)}")
        self._method(number, channel, (found[0], found[1]), arguments, answers, frame)

    def _method(
        self,
        number: int,
        channel: BrokerChannel,
        found: tuple[int, int],
        args: bytes,
        answers: list[bytes],
        frame: bytes,
    ) -> None:
        if found == (60, 40):
            channel.coming = Content(args)
        elif found in ((60, 80), (60, 90), (60, 120)):
            self._settled(channel, args, found != (60, 90))
        elif found == (60, 10):
            answers.append(amqp.qos_ok(number))
        elif found == (60, 20):
            size = args[2]
            at = 3 + size
            tag = args[at + 1 : at + 1 + args[at]].decode()
            bits = args[at + 1 + args[at]]
            if tag in channel.consumers:
                raise Broken(f"consumer tag {tag} is in use")
            channel.consumers[tag] = bool(bits & 2)
            if not bits & 8:
                answers.append(amqp.consume_ok(number, tag))
        elif found == (60, 30):
            tag = args[1 : 1 + args[0]].decode()
            channel.consumers.pop(tag, None)
            if not args[-1] & 1:
                answers.append(amqp.cancel_ok(number, tag))
        elif found == (60, 70):
            if args[-1] & 1:
                channel.tag += 1
                answers.append(amqp.get_ok(number, channel.tag))
            elif channel.tag % 3 == 2:
                answers.append(amqp.get_empty(number))
                channel.tag += 1
            else:
                channel.tag += 1
                channel.unacked.add(channel.tag)
                answers.append(amqp.get_ok(number, channel.tag))
        elif found == (60, 110):
            channel.unacked.clear()
            answers.append(amqp.recover_ok(number))
        elif found == (85, 10):
            channel.confirm = True
            answers.append(amqp.confirm_select_ok(number))
        elif found == (50, 40):
            answers.append(amqp.method(number, 50, 41, b"\0\0\0\0"))
        elif found == CHANNEL_CLOSE:
            del self.channels[number]
            answers.append(amqp.channel_close_ok(number))
        else:
            raise Broken(name(frame))

    def _settled(self, channel: BrokerChannel, args: bytes, can_be_many: bool) -> None:
        tag, bits = unpack_from(">QB", args)
        if can_be_many and bits & 1:
            settled = {each for each in channel.unacked if tag == 0 or each <= tag}
            if tag and not settled:
                raise Broken(f"settled for the second time, or unknown: up to {tag}")
            channel.unacked -= settled
        elif tag not in channel.unacked:
            raise Broken(f"settled for the second time, or unknown: {tag}")
        else:
            channel.unacked.discard(tag)

    def _published(self, number: int, channel: BrokerChannel, content: Content) -> None:
        args = content.arguments
        size = args[2]
        exchange = args[3 : 3 + size].decode()
        key = args[4 + size : 4 + size + args[3 + size]].decode()
        self.published.append((exchange, key, content.body))
        if channel.confirm:
            channel.published += 1
            channel.unconfirmed.append(channel.published)

    # -- what it does of its own accord --

    def deliver(self, number: int) -> None:
        """A message for one of the channel's consumers."""
        channel = self.channels.get(number)
        if channel is None or channel.closing or not channel.consumers or self.closing or self.over:
            return
        channel.tag += 1
        tag = sorted(channel.consumers)[channel.tag % len(channel.consumers)]
        if not channel.consumers[tag]:
            channel.unacked.add(channel.tag)
        self.say(amqp.deliver(number, tag, channel.tag))

    def answer(self, number: int, which: int, multiple: bool, positive: bool) -> None:
        """Confirm a publish, or several."""
        channel = self.channels.get(number)
        if channel is None or channel.closing or not channel.unconfirmed or self.closing or self.over:
            return
        tag = channel.unconfirmed[which % len(channel.unconfirmed)]
        if multiple:
            channel.unconfirmed = [each for each in channel.unconfirmed if each > tag]
        else:
            channel.unconfirmed.remove(tag)
        self.say(amqp.ack(number, tag, multiple) if positive else amqp.nack(number, tag, multiple))

    def block(self) -> None:
        """Raise an alarm."""
        if not self.blocked and not self.closing and not self.over:
            self.blocked = True
            self.say(amqp.blocked("memory"))

    def unblock(self) -> None:
        if self.blocked and not self.closing and not self.over:
            self.blocked = False
            self.say(amqp.UNBLOCKED)

    def close_channel(self, number: int) -> None:
        channel = self.channels.get(number)
        if channel is not None and not channel.closing and not self.closing and not self.over:
            channel.closing = True
            self.say(amqp.channel_close(number, 404, "no queue"))

    def close(self) -> None:
        if not self.closing and not self.over:
            self.closing = True
            self.say(amqp.close(320, "shutdown"))


class ClientChannel:
    def __init__(self) -> None:
        self.open = False
        self.closing = False
        self.coming: Content | None = None
        self.confirm = False
        self.confirmed = False
        self.published = 0
        #: In confirm mode: what was published, by its number; numbers without an answer; and those that were refused.
        self.sent: dict[int, tuple[str, str, bytes]] = {}
        self.unconfirmed: set[int] = set()
        self.refused: set[int] = set()
        #: Consumer tag → it need not acknowledge; those that are cancelled or not there yet, too.
        self.consumers: dict[str, bool] = {}
        self.cancelled: set[str] = set()
        self.gets: deque[bool] = deque()
        self.unacked: set[int] = set()
        self.qos = 0
        #: Asked to have everything delivered anew: what has come before the answer is void.
        self.recovering = 0


class Client:
    """Reads at once (:meth:`turn`)."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.channels: dict[int, ClientChannel] = {}
        self.published: list[tuple[str, str, bytes]] = []
        #: We have sent a close; or there was one from the other side.
        self.closing = False
        self.over = False
        self.reason = ""
        self.blocked = False
        self._consumers = 0

    def say(self, *frames: bytes) -> None:
        self.peer.says(*frames)

    def turn(self) -> None:
        answers: list[bytes] = []
        for frame in cut(self.peer.heard()):
            if self.over and not (self.closing and frame == amqp.CLOSE_OK):  # closes that cross are both answered
                raise Broken(f"after the end: {name(frame)}")
            self._frame(frame, answers)
        if answers:
            self.say(*answers)

    def _frame(self, frame: bytes, answers: list[bytes]) -> None:
        kind, number = unpack_from(">BH", frame)
        payload = frame[7:-1]
        if frame[-1] != 0xCE or kind not in (1, 2, 3, 8):
            raise Broken(f"no frame: {frame!r}")
        if kind == 8:
            return
        found = unpack_from(">HH", payload) if kind == 1 else (0, 0)
        arguments = payload[4:]
        if number == 0:
            if found == CLOSE:
                answers.append(CLOSE_OK)
                self.over = True
                self.reason = name(frame)
            elif found == CLOSED:
                if not self.closing:
                    raise Broken("close-ok to nothing")
                self.over = True
            elif found in ((10, 60), (10, 61)):
                if self.blocked == (found == (10, 60)):
                    raise Broken(f"twice {name(frame)}")
                self.blocked = found == (10, 60)
            else:
                raise Broken(name(frame))
            return
        channel = self.channels.get(number)
        if channel is None:
            raise Broken(f"on a channel that is not open: {name(frame)}")
        if not channel.open and found != (20, 11):
            raise Broken(f"before open-ok: {name(frame)}")
        if kind != 1:
            if channel.coming is None:
                raise Broken(f"content out of place: {name(frame)}")
            if channel.coming.add(kind, payload):
                channel.coming = None
            return
        if channel.coming is not None:
            raise Broken(f"inside a delivery: {name(frame)}")
        self._method(number, channel, (found[0], found[1]), arguments, answers, frame)

    def _method(
        self,
        number: int,
        channel: ClientChannel,
        found: tuple[int, int],
        args: bytes,
        answers: list[bytes],
        frame: bytes,
    ) -> None:
        if found == (20, 11):
            if channel.open:
                raise Broken("open-ok twice")
            channel.open = True
        elif found == CHANNEL_CLOSE:
            answers.append(amqp.channel_close_ok(number))
            if not channel.closing:
                del self.channels[number]
        elif found == CHANNEL_CLOSED:
            if not channel.closing:
                raise Broken("channel.close-ok to nothing")
            del self.channels[number]
        elif found == (60, 11):
            channel.qos -= 1
            if channel.qos < 0:
                raise Broken("qos-ok to nothing")
        elif found == (60, 21):
            channel.consumers.setdefault(args[1 : 1 + args[0]].decode(), False)
        elif found == (60, 31):
            if args[1 : 1 + args[0]].decode() not in channel.cancelled:
                raise Broken("cancel-ok to nothing")
        elif found == (60, 60):
            size = args[0]
            consumer = args[1 : 1 + size].decode()
            tag = int(unpack_from(">Q", args, 1 + size)[0])
            if consumer not in channel.consumers:
                raise Broken(f"a delivery for nobody: {consumer}")
            if not channel.consumers[consumer]:
                if tag in channel.unacked:
                    raise Broken(f"delivery tag {tag} twice")
                channel.unacked.add(tag)
            channel.coming = Content(args)
        elif found == (60, 71):
            if not channel.gets.popleft():
                channel.unacked.add(int(unpack_from(">Q", args)[0]))
            channel.coming = Content(args)
        elif found == (60, 72):
            channel.gets.popleft()
        elif found == (60, 50):
            channel.coming = Content(args)
        elif found in ((60, 80), (60, 120)):
            self._answered(channel, args, found == (60, 80))
        elif found == (85, 11):
            channel.confirmed = True
        elif found == (60, 111):
            channel.recovering -= 1
            channel.unacked.clear()
        elif found != (50, 41):
            raise Broken(name(frame))

    def _answered(self, channel: ClientChannel, args: bytes, taken: bool) -> None:
        tag, bits = unpack_from(">QB", args)
        answered = {each for each in channel.unconfirmed if each <= tag} if bits & 1 else {tag} & channel.unconfirmed
        if not answered or tag not in answered:
            raise Broken(f"an answer to what was answered or never sent: {tag}")
        channel.unconfirmed -= answered
        if not taken:
            channel.refused |= answered

    # -- what it does of its own accord --

    @property
    def usable(self) -> list[int]:
        """Channels on which something can be said."""
        if self.closing or self.over:
            return []
        return [number for number, channel in self.channels.items() if channel.open and not channel.closing]

    def open_channel(self, number: int) -> None:
        if number not in self.channels and not self.closing and not self.over:
            self.channels[number] = ClientChannel()
            self.say(amqp.channel_open(number))

    def publish(self, number: int, exchange: str, body: bytes, pieces: int = 0, cut: int = 100) -> None:
        channel = self.channels[number]
        key = f"{exchange}.{number}"
        if channel.confirm:
            channel.published += 1
            channel.unconfirmed.add(channel.published)
            channel.sent[channel.published] = (exchange, key, body)
        self.published.append((exchange, key, body))
        self.peer.says(amqp.publish(number, key, body, exchange=exchange, cut=cut), pieces=pieces)

    def select(self, number: int) -> None:
        channel = self.channels[number]
        if not channel.confirm:
            channel.confirm = True
            self.say(amqp.confirm_select(number))

    def consume(self, number: int, no_ack: bool, no_wait: bool) -> None:
        self._consumers += 1
        tag = f"c{self._consumers}"
        self.channels[number].consumers[tag] = no_ack
        self.say(amqp.consume(number, "q", tag, no_ack, no_wait))

    def cancel(self, number: int, which: int, no_wait: bool) -> None:
        channel = self.channels[number]
        tags = sorted(set(channel.consumers) - channel.cancelled)
        if tags:
            tag = tags[which % len(tags)]
            channel.cancelled.add(tag)
            self.say(amqp.cancel(number, tag, no_wait))

    def get(self, number: int, no_ack: bool) -> None:
        self.channels[number].gets.append(no_ack)
        self.say(amqp.get(number, "q", no_ack))

    def settle(self, number: int, which: int, how: int, all_heard: bool) -> None:
        """Acknowledge, reject or send back one delivery, or all up to one, or (when no delivery is on its way) all."""
        channel = self.channels[number]
        if not channel.unacked or channel.recovering:
            return
        tags = sorted(channel.unacked)
        tag = tags[which % len(tags)]
        many = how % 3 == 0
        everything = all_heard and how % 6 == 3
        if how % 5 == 4:
            self.say(amqp.reject(number, tag))
            channel.unacked.discard(tag)
            return
        if everything:
            tag, many = 0, True
        self.say(amqp.nack(number, tag, many, True) if how % 2 else amqp.ack(number, tag, many))
        if many:
            channel.unacked = {each for each in channel.unacked if tag and each > tag}
        else:
            channel.unacked.discard(tag)

    def set_qos(self, number: int, count: int) -> None:
        self.channels[number].qos += 1
        self.say(amqp.qos(number, count))

    def recover(self, number: int) -> None:
        self.channels[number].recovering += 1
        self.say(amqp.recover(number))

    def delete_queue(self, number: int) -> None:
        self.say(amqp.queue_delete(number, "q"))

    def close_channel(self, number: int) -> None:
        self.channels[number].closing = True
        self.say(amqp.channel_close(number))

    def close(self) -> None:
        if not self.closing and not self.over:
            self.closing = True
            self.say(amqp.close())
