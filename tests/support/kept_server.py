"""A broker that keeps to AMQP's rules and has a memory, around an AMQP port with a spool: it goes and comes back, loses
what it has not confirmed, sometimes its memory too, and notices everything that it must not be sent. It plays on a
:class:`support.kept.KeptStage`."""

from __future__ import annotations

import re
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from pamqp.header import ContentHeader

from support import amqp
from support.amqp import CLOSE_OK, GREETING, Peer, name
from support.amqp_model import Broken, Content
from support.kept import REPLAY, KeptStage, identity

if TYPE_CHECKING:
    from support.kept_clients import Client

#: Users who may log in; the last one may not publish.
USERS = ("guest", "writer", "reader")
READER = "reader"
_LOGIN = re.compile(rb"PLAIN....\x00(\w+)\x00secret", re.DOTALL)

FRAME_MAX = 4096
CHANNELS = 6

#: Methods that are answered, and their answers, as (class, method).
ANSWERS = {
    (20, 10): (20, 11), (20, 40): (20, 41), (40, 10): (40, 11), (50, 10): (50, 11), (50, 20): (50, 21),
    (50, 40): (50, 41), (60, 10): (60, 11), (60, 20): (60, 21), (60, 30): (60, 31), (60, 70): (60, 71),
    (60, 110): (60, 111), (85, 10): (85, 11), (90, 10): (90, 11),
}  # fmt: skip


def text(data: bytes, at: int) -> tuple[str, int]:
    """A short string, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


class Taken:
    """A publish, from the broker's point of view. ``nowhere``: no queue wants it."""

    def __init__(self, body: bytes, link: Link, nowhere: bool) -> None:
        self.body = body
        self.link = link
        self.nowhere = nowhere
        self.confirmed = False


class LinkChannel:
    def __init__(self) -> None:
        self.closing = False
        self.coming: Content | None = None
        self.identity = b""
        self.user_id = ""
        self.confirm = False
        self.tx = False
        self.published = 0
        self.unconfirmed: dict[int, Taken] = {}
        self.consumers: dict[str, tuple[str, bool]] = {}
        self.tag = 0
        #: Delivery tag → queue and serial number.
        self.unacked: dict[int, tuple[str, int]] = {}
        self.last_queue = ""


class Link:
    """A connection to the broker."""

    def __init__(self, server: Server, peer: Peer) -> None:
        self.server = server
        self.peer = peer
        self.stage = "greeting"
        self.replay = False
        self.user = ""
        self.channels: dict[int, LinkChannel] = {}
        self.rest = b""
        self.over = False

    @property
    def open(self) -> bool:
        return self.stage == "open" and not self.over and self.peer.connected

    def say(self, *frames: bytes) -> None:
        if not self.over and not self.peer.transport.gone:
            self.peer.says(*frames)

    def turn(self, most: int = 1_000_000) -> bool:
        """Read so many frames; whether there were any."""
        self.rest += self.peer.heard()
        if self.stage == "greeting" and self.rest:
            if self.rest[:8] != GREETING:
                raise Broken(f"no greeting: {self.rest[:8]!r}")
            self.rest = self.rest[8:]
            self.stage = "start"
            self.say(amqp.start())
            self.rest += self.peer.heard()
        found = False
        while len(self.rest) >= 8 and most > 0 and not self.over:
            size = int(unpack_from(">I", self.rest, 3)[0]) + 8
            if size > FRAME_MAX and self.stage == "open":
                raise Broken(f"a frame of {size} bytes")
            if len(self.rest) < size:
                break
            frame, self.rest = self.rest[:size], self.rest[size:]
            most -= 1
            found = True
            answers: list[bytes] = []
            self._frame(frame, answers)
            if answers:
                self.say(*answers)
            self.rest += self.peer.heard()
        return found

    def ends(self) -> None:
        """It is gone: what was not settled goes back."""
        self.over = True
        self.server.links.remove(self)
        for channel in self.channels.values():
            self._requeue(channel)
        self.server.gone(self)

    def _requeue(self, channel: LinkChannel) -> None:
        for queue, _ in reversed(channel.unacked.values()):
            self.server.waiting[queue] = self.server.waiting.get(queue, 0) + 1
        channel.unacked.clear()

    def _frame(self, frame: bytes, answers: list[bytes]) -> None:
        kind, number = unpack_from(">BH", frame)
        if frame[-1] != 0xCE or kind not in (1, 2, 3, 8):
            raise Broken(f"no frame: {frame!r}")
        if kind == 8:
            return
        found = unpack_from(">HH", frame, 7) if kind == 1 else (0, 0)
        payload = frame[7:-1]
        if self.stage == "closing":
            if found == (10, 51):
                self.peer.leaves()
            elif found == (10, 50):
                answers.append(CLOSE_OK)
            return
        if number == 0:
            self._connection((found[0], found[1]), frame, answers)
            return
        if self.stage != "open":
            raise Broken(f"before open-ok: {name(frame)}")
        if number > CHANNELS:
            raise Broken(f"above channel-max: {name(frame)}")
        channel = self.channels.get(number)
        if channel is None:
            if found != (20, 10):
                raise Broken(f"on a channel that is not open: {name(frame)}")
            self.channels[number] = LinkChannel()
            answers.append(amqp.channel_open_ok(number))
        elif channel.closing:
            if found == (20, 41):
                del self.channels[number]
            elif found == (20, 40):
                answers.append(amqp.channel_close_ok(number))
        elif kind != 1:
            if channel.coming is None:
                raise Broken(f"content out of place: {name(frame)}")
            if kind == 2:
                channel.identity = identity(frame)
                found_header = ContentHeader()
                found_header.unmarshal(payload)
                channel.user_id = found_header.properties.user_id or ""
            if channel.coming.add(kind, payload):
                content, channel.coming = channel.coming, None
                self._published(number, channel, content, answers)
        elif channel.coming is not None:
            raise Broken(f"inside a publish: {name(frame)}")
        else:
            self._method(number, channel, (found[0], found[1]), payload[4:], answers, frame)

    def _connection(self, found: tuple[int, int], frame: bytes, answers: list[bytes]) -> None:
        expected = {"start": (10, 11), "tune": (10, 31), "opening": (10, 40)}.get(self.stage)
        if found == (10, 50):
            answers.append(CLOSE_OK)
            self.stage = "closing"
        elif found == expected == (10, 11):
            self.replay = REPLAY in frame
            login = _LOGIN.search(frame)
            if login is None or login[1].decode() not in USERS:
                raise Broken(f"nobody's login: {frame!r}")
            self.user = login[1].decode()
            self.stage = "tune"
            answers.append(amqp.tune(CHANNELS, FRAME_MAX, self.server.heartbeat))
        elif found == expected == (10, 31):
            self.stage = "opening"
        elif found == expected == (10, 40):
            self.stage = "open"
            answers.append(amqp.connection_open_ok())
            if self.server.alarm:
                answers.append(amqp.blocked("memory"))
        else:
            raise Broken(f"{name(frame)} in {self.stage}")

    def _method(
        self,
        number: int,
        channel: LinkChannel,
        found: tuple[int, int],
        args: bytes,
        answers: list[bytes],
        frame: bytes,
    ) -> None:
        server = self.server
        if found == (60, 40):
            if not channel.confirm and not channel.tx:
                raise Broken("published without confirms")
            channel.coming = Content(args)
        elif found in ((60, 80), (60, 90), (60, 120)):
            self._settled(channel, args, found != (60, 90))
        elif found == (50, 10):
            self._declare(number, channel, args, answers)
        elif found == (40, 10):
            exchange, at = text(args, 2)
            at = text(args, at)[1]
            if args[at] & 1 and exchange not in server.exchanges:
                self._close_channel(number, channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'", answers)
            else:
                server.exchanges.setdefault(exchange, set())
                answers.append(amqp.method(number, 40, 11))
        elif found == (50, 20):
            queue, at = text(args, 2)
            exchange = text(args, at)[0]
            if queue not in server.queues:
                self._close_channel(number, channel, 404, f"NOT_FOUND - no queue '{queue}'", answers)
            elif exchange not in server.exchanges:
                self._close_channel(number, channel, 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'", answers)
            else:
                server.exchanges[exchange].add(queue)
                answers.append(amqp.method(number, 50, 21))
        elif found == (50, 40):
            server.queues.pop(text(args, 2)[0], None)
            answers.append(amqp.method(number, 50, 41, b"\0\0\0\0"))
        elif found == (60, 20):
            queue, at = text(args, 2)
            tag, at = text(args, at)
            queue = queue or channel.last_queue
            if tag in channel.consumers:
                raise Broken(f"consumer tag {tag} is in use")
            if queue not in server.queues or server.queues[queue] not in (None, self):
                self._close_channel(number, channel, 404, f"NOT_FOUND - no queue '{queue}'", answers)
                return
            channel.consumers[tag] = queue, bool(args[at] & 2)
            if not args[at] & 8:
                answers.append(amqp.consume_ok(number, tag))
        elif found == (60, 30):
            tag = text(args, 0)[0]
            channel.consumers.pop(tag, None)
            if not args[-1] & 1:
                answers.append(amqp.cancel_ok(number, tag))
        elif found == (60, 70):
            queue = text(args, 2)[0]
            if channel.tag % 3 == 2 or queue not in server.queues:
                answers.append(amqp.get_empty(number))
                channel.tag += 1
            else:
                serial = self._next(channel, queue, bool(args[-1] & 1))
                answers.append(amqp.get_ok(number, channel.tag, b"%d" % serial))
        elif found == (60, 110):
            self._requeue(channel)
            answers.append(amqp.recover_ok(number))
        elif found == (85, 10):
            if channel.tx:
                raise Broken("confirm mode on a channel in tx mode")
            channel.confirm = True
            if not args[-1] & 1:
                answers.append(amqp.confirm_select_ok(number))
        elif found == (20, 40):
            self._requeue(channel)
            del self.channels[number]
            answers.append(amqp.channel_close_ok(number))
        elif found == (90, 10):
            channel.tx = True
            answers.append(amqp.method(number, 90, 11))
        elif found in ANSWERS:
            answers.append(amqp.method(number, *ANSWERS[found]))
        else:
            raise Broken(name(frame))

    def _declare(self, number: int, channel: LinkChannel, args: bytes, answers: list[bytes]) -> None:
        queue, at = text(args, 2)
        bits = args[at]
        queues = self.server.queues
        if not queue:
            queue = f"amq.gen-{self.server.number()}"
        if queue in queues and queues[queue] not in (None, self):
            self._close_channel(number, channel, 405, "RESOURCE_LOCKED", answers)
            return
        if bits & 1 and queue not in queues:
            self._close_channel(number, channel, 404, "NOT_FOUND", answers)
            return
        if queue not in queues:
            queues[queue] = self if bits & 4 else None
        channel.last_queue = queue
        answers.append(amqp.queue_declare_ok(number, queue))

    def _close_channel(
        self, number: int, channel: LinkChannel, code: int, reason: str, answers: list[bytes], cause: int = 0
    ) -> None:
        channel.closing = True
        self._requeue(channel)
        answers.append(amqp.channel_close(number, code, reason, cause))

    def _settled(self, channel: LinkChannel, args: bytes, can_be_many: bool) -> None:
        tag, bits = unpack_from(">QB", args)
        back = bool(bits & 2) or not can_be_many
        if can_be_many and bits & 1:
            tags = [each for each in channel.unacked if tag == 0 or each <= tag]
            if tag and not tags:
                raise Broken(f"settled for the second time, or unknown: up to {tag}")
        elif tag not in channel.unacked:
            raise Broken(f"settled for the second time, or unknown: {tag}")
        else:
            tags = [tag]
        for each in tags:
            serial = channel.unacked.pop(each)[1]
            if serial not in self.server.settled and not back:
                raise Broken(f"delivery {serial} was not settled by any client")

    def _next(self, channel: LinkChannel, queue: str, no_ack: bool) -> int:
        serial = self.server.number()
        channel.tag += 1
        if not no_ack:
            channel.unacked[channel.tag] = queue, serial
        return serial

    def _published(self, number: int, channel: LinkChannel, content: Content, answers: list[bytes]) -> None:
        server = self.server
        exchange, at = text(content.arguments, 2)
        key, at = text(content.arguments, at)
        mandatory = bool(content.arguments[at] & 1)
        refusal: tuple[int, str] | None = None
        if self.user == READER:
            where = exchange or "amq.default"
            refusal = 403, f"ACCESS_REFUSED - access to exchange '{where}' in vhost '/' refused for user '{READER}'"
        elif channel.user_id not in ("", self.user):
            refusal = 406, f"PRECONDITION_FAILED - user_id '{channel.user_id}', but authenticated user '{self.user}'"
        elif exchange and exchange not in server.exchanges:
            refusal = 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
        if refusal is not None:
            self._close_channel(number, channel, *refusal, answers, 60 << 16 | 40)
            return
        wanted = server.exchanges[exchange] if exchange else {key}
        taken = Taken(content.body.strip(b". "), self, not any(queue in server.queues for queue in wanted))
        if taken.nowhere:
            if mandatory:
                answers.append(amqp.returned(number, key, content.body, exchange, FRAME_MAX - 8))
            if self.replay:
                if not mandatory:
                    raise Broken(f"{taken.body!r} was sent to nowhere")
                server.returned.add((exchange, key))
        server.takes(taken, channel.identity)
        channel.published += 1
        if channel.confirm:
            channel.unconfirmed[channel.published] = taken
            if len(channel.unconfirmed) > server.window and not self.replay:
                raise Broken(f"{len(channel.unconfirmed)} are unconfirmed")
        else:
            server.confirmed(taken)

    # -- what it does of its own accord --

    def deliver(self, number: int) -> None:
        channel = self.channels.get(number)
        if channel is None or channel.closing or not channel.consumers or not self.open:
            return
        tag = sorted(channel.consumers)[channel.tag % len(channel.consumers)]
        queue, no_ack = channel.consumers[tag]
        serial = self._next(channel, queue, no_ack)
        self.say(amqp.deliver(number, tag, channel.tag, b"%d" % serial))

    def confirm(self, number: int, which: int, multiple: bool, positive: bool) -> None:
        channel = self.channels.get(number)
        if channel is None or channel.closing or not channel.unconfirmed or not self.open:
            return
        tags = list(channel.unconfirmed)
        tag = tags[which % len(tags)]
        for each in [each for each in tags if each == tag or (multiple and each < tag)]:
            taken = channel.unconfirmed.pop(each)
            if positive:
                self.server.confirmed(taken)
            else:
                self.server.refused(taken)
        self.say(amqp.ack(number, tag, multiple) if positive else amqp.nack(number, tag, multiple))

    def close_channel(self, number: int) -> None:
        self.server.turn()
        channel = self.channels.get(number)
        if channel is not None and not channel.closing and self.open:
            channel.closing = True
            self._requeue(channel)
            self.server.nacked |= {taken.body for taken in channel.unconfirmed.values()}
            self.say(amqp.channel_close(number, 404, "NOT_FOUND - something"))

    def close(self) -> None:
        if self.open:
            self.stage = "closing"
            self.say(amqp.close(320, "shutdown"))


class Server:
    """The broker."""

    def __init__(self, stage: KeptStage, window: int, heartbeat: int) -> None:
        self.stage = stage
        self.window = window
        self.heartbeat = heartbeat
        self.links: list[Link] = []
        self._accepted = 0
        #: Queue → who alone may use it.
        self.queues: dict[str, Link | None] = {}
        #: Exchange → the queues that get what is published to it.
        self.exchanges: dict[str, set[str]] = {}
        self.set_up()
        self.waiting: dict[str, int] = {}
        #: What it has, in the order in which it came.
        self.taken: list[Taken] = []
        self.safe: set[bytes] = set()
        #: Messages that came once more after they had been confirmed.
        self.again: list[bytes] = []
        self.nacked: set[bytes] = set()
        #: Messages that clients have published to nowhere by themselves, and had confirmed by the broker; exchanges and
        #: routing keys of what came out of the spool, and had nowhere to go.
        self.vanished: set[bytes] = set()
        self.returned: set[tuple[str, str]] = set()
        #: It has forgotten things.
        self.forgot = False
        #: Who has published a message.
        self.authors: dict[bytes, str] = {}
        #: What each message is recognised by.
        self.ids: dict[bytes, bytes] = {}
        #: Serial numbers of deliveries that clients have settled.
        self.settled: set[int] = set()
        self.alarm = False
        self._number = 0

    def number(self) -> int:
        self._number += 1
        return self._number

    def look(self) -> None:
        """Notice connections that have come and gone."""
        stage = self.stage
        stage.loop.settle()
        while self._accepted < len(stage.accepted):
            self.links.append(Link(self, stage.accepted[self._accepted]))
            self._accepted += 1
        for link in list(self.links):
            if link.peer.transport.gone:
                link.ends()

    def turn(self, which: int = -1, most: int = 1_000_000) -> None:
        """Read from one connection, or from all. What clients have sent by themselves is quicker than what the replay
        has sent after that."""
        self.look()
        if not self.links:
            return
        links = self.links if which < 0 else [self.links[which % len(self.links)]]
        for link in sorted(links, key=lambda each: each.replay):
            if link.replay and which >= 0:
                for other in self.links:
                    if not other.replay:
                        other.turn()
            link.turn(most)
        self.look()

    def takes(self, taken: Taken, identity: bytes) -> None:
        if not identity or self.ids.setdefault(taken.body, identity) != identity:
            raise Broken(f"{taken.body!r} has the id {identity!r}, and had {self.ids.get(taken.body)!r}")
        if self.authors[taken.body] != taken.link.user:
            raise Broken(f"{taken.body!r} of {self.authors[taken.body]} came from {taken.link.user}")
        if taken.body in self.safe:
            self.again.append(taken.body)
        if not taken.nowhere:
            self.taken.append(taken)

    def confirmed(self, taken: Taken) -> None:
        taken.confirmed = True
        if not taken.nowhere:
            self.safe.add(taken.body)
        elif not taken.link.replay:
            self.vanished.add(taken.body)

    def refused(self, taken: Taken) -> None:
        self.nacked.add(taken.body)
        if not taken.nowhere:
            self.taken.remove(taken)

    def set_up(self) -> None:
        """Somebody who does not use the port declares what everybody uses."""
        for queue in ("q0", "q1"):
            self.queues.setdefault(queue, None)
        self.exchanges.setdefault("ex", set()).add("q0")

    def forget(self) -> None:
        """All connections are lost, and with them whatever was declared: it comes back empty."""
        self.crash(0)
        self.queues.clear()
        self.exchanges.clear()
        self.waiting.clear()
        self.forgot = True

    def gone(self, link: Link) -> None:
        for queue in [queue for queue, owner in self.queues.items() if owner is link]:
            del self.queues[queue]

    def agrees(self, client: Client) -> None:
        """It has for a client what that thinks it has."""
        transport: Any = client.peer.transport
        link = next(each for each in self.links if each.peer.transport.protocol is transport.protocol.session.broker)
        if set(link.channels) != set(client.channels):
            raise Broken(f"channels {set(link.channels)} for {set(client.channels)}")
        for number, mine in link.channels.items():
            theirs = client.channels[number]
            if set(mine.consumers) != set(theirs.consumers) - theirs.cancelled:
                raise Broken(f"consumers {set(mine.consumers)} for {set(theirs.consumers) - theirs.cancelled}")
            if theirs.confirm and not mine.confirm:
                raise Broken(f"channel {number} is not in confirm mode any more")
            left = {serial for _, serial in mine.unacked.values()}
            if not left <= set(theirs.unacked.values()):
                raise Broken(f"deliveries {left} are unsettled, for {set(theirs.unacked.values())}")

    def crash(self, losing: int) -> None:
        """All connections are lost, and of what was not confirmed, the last so many of each."""
        self.look()
        lost: dict[Link, int] = {}
        for taken in reversed(list(self.taken)):
            if not taken.confirmed and not taken.link.over and lost.get(taken.link, 0) < losing:
                lost[taken.link] = lost.get(taken.link, 0) + 1
                self.taken.remove(taken)
        self.alarm = False
        for link in list(self.links):
            link.peer.breaks()
        self.look()

    def sound(self, on: bool) -> None:
        """An alarm begins, or ends. What clients have sent before it is read before it."""
        if on == self.alarm:
            return
        self.turn()
        self.alarm = on
        for link in self.links:
            if link.stage == "open":
                link.say(amqp.blocked("memory") if on else amqp.UNBLOCKED)
