"""Clients of an AMQP port with a spool that keep to AMQP's rules and remember what they were told: they notice whatever
breaks a rule. They play on a :class:`support.kept.KeptStage`, opposite :mod:`support.kept_server`."""

from __future__ import annotations

from collections import deque
from struct import unpack_from
from typing import Any

from support import amqp
from support.amqp import CLOSE_OK, GREETING, Peer, cut, name
from support.amqp_model import Broken, Content
from support.kept_server import ANSWERS, CHANNELS, FRAME_MAX, text


class Message:
    """A publish, from the client's point of view."""

    def __init__(self, client: Client, lane: tuple[Any, ...], body: bytes, spoolable: bool) -> None:
        self.client = client
        #: What it keeps its order in: client, number of the channel's opening, exchange, routing key.
        self.lane = lane
        self.body = body
        #: May be in the spool; its loss is nobody's fault.
        self.spoolable = spoolable
        #: It says that somebody else has published it.
        self.forged = False
        self.excused = False
        self.acked = False
        self.nacked = False


class ClientChannel:
    def __init__(self, opening: int) -> None:
        self.opening = opening
        self.open = False
        self.closing = False
        self.coming: Content | None = None
        self.confirm = False
        self.tx = False
        self.published = 0
        self.unconfirmed: dict[int, Message] = {}
        #: Without confirms.
        self.sent: list[Message] = []
        self.consumers: dict[str, bool] = {}
        self.cancelled: set[str] = set()
        self.asked: deque[tuple[int, int]] = deque()
        #: Something was asked that has no answer.
        self.silent = False
        self.gets: deque[bool] = deque()
        #: Delivery tag → serial number; the highest so far; and what the delivery that is coming in needs. Those that
        #: need not be acknowledged may overtake others that are kept back, as when their consumer is cancelled: no
        #: ``multiple`` of the client can mean those.
        self.unacked: dict[int, int] = {}
        self.last_tag = 0
        self.unsettling: set[int] = set()
        self.settles = 0


class Client:
    """Reads at once (:meth:`turn`). ``safe`` says whether a message may be acknowledged now."""

    def __init__(self, world: Any, peer: Peer, number: int, heartbeat: int, user: str) -> None:
        self.world = world
        self.user = user
        self.peer = peer
        self.number = number
        self.heartbeat = heartbeat
        self.stage = "start"
        self.channels: dict[int, ClientChannel] = {}
        self.messages: list[Message] = []
        self.closing = False
        self.over = False
        self.reason = ""
        #: It has left without a word, and reads nothing any more.
        self.gave_up = False
        self.blocked = False
        self._consumers = 0
        self._openings = 0
        peer.says(GREETING)

    def say(self, *frames: bytes, pieces: int = 0) -> None:
        if not self.peer.transport.gone:
            self.peer.says(*frames, pieces=pieces)

    def turn(self) -> None:
        answers: list[bytes] = []
        for frame in cut(self.peer.heard()):
            if self.over and not (self.closing and frame == CLOSE_OK):
                if self.gave_up:
                    continue
                raise Broken(f"after the end: {name(frame)}")
            self._frame(frame, answers)
        if answers:
            self.say(*answers)

    def gone(self) -> None:
        """It has left, or was told to: nothing more is answered."""
        self.over = True
        unread = self.peer.transport.unread
        for message in self.messages:
            if not message.acked and (unread or not message.spoolable or self.reason or self.world.trouble):
                message.excused = True
        transport: Any = self.peer.transport
        theirs = transport.protocol.session.channels
        for number, channel in self.channels.items():
            if channel.asked or channel.silent or channel.closing or (number in theirs and theirs[number].pending):
                # What stands behind something that waits for a broker.
                for message in (*channel.unconfirmed.values(), *channel.sent):
                    message.excused = True

    def _frame(self, frame: bytes, answers: list[bytes]) -> None:
        kind, number = unpack_from(">BH", frame)
        if frame[-1] != 0xCE or kind not in (1, 2, 3, 8):
            raise Broken(f"no frame: {frame!r}")
        if kind == 8:
            return
        payload = frame[7:-1]
        raw = unpack_from(">HH", payload) if kind == 1 else (0, 0)
        found = (raw[0], raw[1])
        if number == 0:
            self._connection(found, frame, answers)
            return
        channel = self.channels.get(number)
        if channel is None:
            raise Broken(f"on a channel that is not open: {name(frame)}")
        if not channel.open and found not in ((20, 11), (20, 40)):
            raise Broken(f"before open-ok: {name(frame)}")
        if kind != 1:
            if channel.coming is None:
                raise Broken(f"content out of place: {name(frame)}")
            if channel.coming.add(kind, payload):
                if channel.settles:
                    channel.unacked[channel.settles] = int(channel.coming.body)
                channel.coming = None
            return
        if channel.coming is not None:
            raise Broken(f"inside a delivery: {name(frame)}")
        self._method(number, channel, found, payload[4:], answers, frame)

    def _connection(self, found: tuple[int, int], frame: bytes, answers: list[bytes]) -> None:
        if found == (10, 10) and self.stage == "start":
            self.stage = "tune"
            answers.append(amqp.start_ok(response=f"\0{self.user}\0secret"))
        elif found == (10, 30) and self.stage == "tune":
            self.stage = "opening"
            answers += [amqp.tune_ok(CHANNELS, FRAME_MAX, self.heartbeat), amqp.connection_open()]
        elif found == (10, 41) and self.stage == "opening":
            self.stage = "open"
        elif found == (10, 50):
            answers.append(CLOSE_OK)
            self.reason = name(frame)
            if amqp.close_of(frame)[0] != 320:
                raise Broken(self.reason)
            self.gone()
        elif found == (10, 51):
            if not self.closing:
                raise Broken("close-ok to nothing")
            self.gone()
        elif found in ((10, 60), (10, 61)):
            if self.blocked == (found == (10, 60)):
                raise Broken(f"twice {name(frame)}")
            self.blocked = found == (10, 60)
        else:
            raise Broken(f"{name(frame)} in {self.stage}")

    def _method(
        self,
        number: int,
        channel: ClientChannel,
        found: tuple[int, int],
        args: bytes,
        answers: list[bytes],
        frame: bytes,
    ) -> None:
        if found == (20, 40):
            answers.append(amqp.channel_close_ok(number))
            for message in (*channel.unconfirmed.values(), *channel.sent):
                message.excused = True
            if not channel.closing:
                del self.channels[number]
        elif found == (20, 41):
            if not channel.closing:
                raise Broken("channel.close-ok to nothing")
            for message in channel.unconfirmed.values():
                message.excused = message.excused or not message.spoolable
            del self.channels[number]
        elif found in ((60, 80), (60, 120)):
            self._answered(channel, args, found == (60, 80))
        elif found in ((60, 60), (60, 71)):
            self._delivered(channel, found, args, frame)
        elif found == (60, 50):
            channel.settles = 0
            channel.coming = Content(args)
        else:
            if found == (60, 72):
                found = (60, 71)
                channel.gets.popleft()
            # What was fetched may have to wait behind deliveries that are kept back.
            rest = [asked for asked in channel.asked if asked != (60, 71) or asked == found]
            if not rest or rest[0] != found:
                raise Broken(f"an answer to nothing: {name(frame)}; expected {list(channel.asked)[:3]}")
            channel.asked.remove(found)
            if found == (20, 11):
                channel.open = True
            elif found == (60, 111):
                channel.unacked.clear()

    def _delivered(self, channel: ClientChannel, found: tuple[int, int], args: bytes, frame: bytes) -> None:
        if found == (60, 60):
            consumer, at = text(args, 0)
            tag = int(unpack_from(">Q", args, at)[0])
            if consumer not in channel.consumers:
                raise Broken(f"a delivery for nobody: {consumer}")
            no_ack = channel.consumers[consumer]
        else:
            if found not in channel.asked:
                raise Broken(f"an answer to nothing: {name(frame)}")
            channel.asked.remove(found)
            tag = int(unpack_from(">Q", args)[0])
            no_ack = channel.gets.popleft()
        if tag <= channel.last_tag or tag in channel.unsettling:
            raise Broken(f"delivery tag {tag} after {channel.last_tag}, {sorted(channel.unsettling)}")
        if no_ack:
            channel.unsettling.add(tag)
        else:
            channel.last_tag = tag
        channel.settles = 0 if no_ack else tag
        channel.coming = Content(args)

    def _answered(self, channel: ClientChannel, args: bytes, taken: bool) -> None:
        tag, bits = unpack_from(">QB", args)
        tags = [each for each in channel.unconfirmed if each == tag or (bits & 1 and each <= tag)]
        if tag not in tags:
            raise Broken(f"an answer to what was answered or never sent: {tag}")
        for each in tags:
            message = channel.unconfirmed.pop(each)
            if taken:
                message.acked = True
                self.world.acknowledged(message)
            else:
                message.nacked = True

    # -- what it does of its own accord --

    @property
    def usable(self) -> list[int]:
        """Channels on which something can be said."""
        if self.closing or self.over or self.stage != "open":
            return []
        return [number for number, channel in self.channels.items() if channel.open and not channel.closing]

    def is_alone(self, number: int) -> bool:
        """It has no broker, and nothing of that channel waits for one: what it says there has its answer at once."""
        transport: Any = self.peer.transport
        session = transport.protocol.session
        channel = self.channels[number]
        waits = channel.asked or channel.silent or channel.tx or transport.stuck or transport.unread
        return bool(session.detached and not waits and session.channels[number].pending is None)

    def ask(self, number: int, found: tuple[int, int], frame: bytes, silent: bool = False) -> None:
        if silent:
            self.channels[number].silent = True
        else:
            self.channels[number].asked.append(ANSWERS[found])
        self.say(frame)

    def open_channel(self, number: int) -> None:
        if number not in self.channels and not self.closing and not self.over and self.stage == "open":
            self._openings += 1
            self.channels[number] = ClientChannel(self._openings)
            self.ask(number, (20, 10), amqp.channel_open(number))

    def publish(
        self, number: int, exchange: str, key: str, size: int, bits: int, pieces: int, user_id: str = ""
    ) -> None:
        channel = self.channels[number]
        lane = (self.number, channel.opening, exchange, key)
        body = b"%d " % self.world.number()
        forged = user_id not in ("", self.user)
        message = Message(self, lane, body.strip(), not (bits or channel.tx or forged))
        message.forged = forged
        self.messages.append(message)
        self.world.server.authors[message.body] = self.user
        properties = b"\0\x10" + amqp.short(user_id) if user_id else b"\0\0"
        if channel.confirm:
            channel.published += 1
            channel.unconfirmed[channel.published] = message
        else:
            channel.sent.append(message)
        whole = body.ljust(size, b".")
        frames = amqp.publish(
            number, key, whole, exchange=exchange, cut=FRAME_MAX - 8, bits=bits, properties=properties
        )
        self.say(frames, pieces=pieces)

    def select(self, number: int) -> None:
        channel = self.channels[number]
        if not channel.confirm and not channel.tx:
            channel.confirm = True
            self.ask(number, (85, 10), amqp.confirm_select(number))

    def transact(self, number: int) -> None:
        channel = self.channels[number]
        if not channel.confirm and not channel.tx and not channel.sent:
            channel.tx = True
            self.ask(number, (90, 10), amqp.tx_select(number))

    def declare(self, number: int, queue: str, bits: int) -> None:
        args = b"\0\0" + amqp.short(queue) + bytes((bits,)) + amqp.table()
        self.ask(number, (50, 10), amqp.method(number, 50, 10, args))

    def bind(self, number: int, queue: str, exchange: str) -> None:
        """Both of them are declared first."""
        self.declare(number, queue, 2)
        self.ask(number, (40, 10), amqp.exchange_declare(number, exchange))
        self.ask(number, (50, 20), amqp.queue_bind(number, queue, exchange, "key"))

    def consume(self, number: int, queue: str, no_ack: bool, no_wait: bool) -> None:
        self._consumers += 1
        tag = f"c{self._consumers}"
        self.channels[number].consumers[tag] = no_ack
        self.ask(number, (60, 20), amqp.consume(number, queue, tag, no_ack, no_wait), no_wait)

    def cancel(self, number: int, which: int, no_wait: bool) -> None:
        channel = self.channels[number]
        tags = sorted(set(channel.consumers) - channel.cancelled)
        if tags:
            tag = tags[which % len(tags)]
            channel.cancelled.add(tag)
            self.ask(number, (60, 30), amqp.cancel(number, tag, no_wait), no_wait)

    def get(self, number: int, queue: str, no_ack: bool) -> None:
        self.channels[number].gets.append(no_ack)
        self.ask(number, (60, 70), amqp.get(number, queue, no_ack))

    def settle(self, number: int, which: int, how: int) -> None:
        """Acknowledge, reject or send back one delivery, or all up to one."""
        channel = self.channels[number]
        if not channel.unacked or (60, 111) in channel.asked:
            return
        tags = sorted(channel.unacked)
        tag = tags[which % len(tags)]
        many = how % 3 == 0
        for each in [each for each in tags if each == tag or (many and each < tag)]:
            self.world.server.settled.add(channel.unacked.pop(each))
        if not many and how % 5 == 4:
            self.say(amqp.reject(number, tag))
        else:
            self.say(amqp.nack(number, tag, many, True) if how % 2 else amqp.ack(number, tag, many))

    def set_qos(self, number: int, count: int) -> None:
        self.ask(number, (60, 10), amqp.qos(number, count))

    def recover(self, number: int) -> None:
        if not self.channels[number].gets:
            self.ask(number, (60, 110), amqp.recover(number))

    def delete_queue(self, number: int, queue: str) -> None:
        self.ask(number, (50, 40), amqp.queue_delete(number, queue))

    def close_channel(self, number: int) -> None:
        self.channels[number].closing = True
        self.say(amqp.channel_close(number))

    def close(self) -> None:
        if not self.closing and not self.over and self.stage == "open":
            self.closing = True
            self.say(amqp.close())
