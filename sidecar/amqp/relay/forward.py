"""The two flows of an open connection: frames from the client to the broker, and back.

Frames side by side that pass as they are stay one slice of what was read; only what is changed, held or dropped cuts
it. A publish (method, header and bodies on one channel) goes on only once it is whole; with a spool, so does what the
broker sends.

With many connections a reading has few messages, and what counts is what it costs by itself. So one that is nothing but
a run is told by a single call into C, and passes without what a mixture needs, if that is sure to be right for it all.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.policy import KnownRoute
from sidecar.amqp.relay import answers, control
from sidecar.amqp.relay.channel import Channel
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.relay.deliveries import acked, settle
from sidecar.amqp.relay.publishing import size_at
from sidecar.amqp.relay.reading import Reading
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_REJECT,
    BODY,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import method_of, settlement
from sidecar.amqp.wire.runs import ACK_SIZE, ACKS, COUNT, DELIVERIES, KIND, PUBLISHES, whole_numbers

if TYPE_CHECKING:
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.wire.splice import Splice

#: Where a method's number has its last octet, and what that is: enough to guess by. No run is shorter than an ack.
_METHOD_AT: Final = 10
_PUBLISH: Final = BASIC_PUBLISH & 0xFF

#: What a client says of deliveries.
_SETTLING: Final = frozenset({BASIC_ACK, BASIC_NACK, BASIC_REJECT})

_u64: Final = Struct(">Q").unpack_from


def pass_to_broker(session: Session, data: bytes) -> bool:
    """Take what has come from the client, if it is one run of publishes or acks that may pass on at once."""
    reader = session.client.reader
    if len(data) < ACK_SIZE or session.client.state != OPEN or not reader.between_frames:
        return False
    if session.lifecycle.close_frame:
        return False
    if data[_METHOD_AT] == _PUBLISH:
        return not session.buffers and _pass_publishes(session, data, reader.limit)
    found_by = whole_numbers
    run = None if found_by is None else found_by(data, reader.limit, b"")
    if run is None:
        return False
    number, first, last, consumer = run
    channel = session.channels.get(number)
    if consumer is not None or channel is None or not channel.ready or not acked(session, channel, first, last):
        return False
    session.touched = session.listener.clock()
    session.broker_write_soon(data, 0, 0)
    return True


def _pass_publishes(session: Session, data: bytes, limit: int) -> bool:
    known = session.known
    run = session.tracing.whole_run(data, limit, b"" if known is None else known.key)
    if run is None:
        return False
    count, number, key, traced = run
    channel = session.channels.get(number)
    if channel is None or not channel.ready:
        return False
    if known is None or known.key is not key or known.version != session.policy.version:
        session.known = known = KnownRoute(key, session.routes.find(key), session.policy.version)
    now = session.listener.clock()
    if not channel.path.pass_whole(known.route, len(data), count, 0 if traced is data else count, now):
        return False
    session.touched = now
    session.broker_write_soon(traced, count, channel.path.backlog)
    return True


def from_client(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames (and runs) of the client and pass on what may pass. Raises :class:`AmqpError` for what ends the
    connection; whatever came before it has been passed on."""
    flow = _FromClient(session, data, frames[0][2])
    try:
        flow.take_all(frames)
        if flow.opened is not None:
            flow.opened.publish.set_aside(flow.splice, flow.end)
    except AmqpError:
        flow.end = flow.start if flow.opened is None else flow.opened.publish.begun
        raise
    finally:
        flow.send()


class _FromClient(Reading):
    """What is read of the client at once, on its way to the broker."""

    __slots__ = ("now", "opened", "session", "settles")

    def __init__(self, session: Session, data: bytes, start: int) -> None:
        Reading.__init__(self, data, start)
        self.session = session
        self.now = session.listener.clock()
        #: The channel whose publish began in ``data`` and is still incomplete.
        self.opened: Channel | None = None
        #: It settles deliveries: who waits for that has nothing to do with publishes.
        self.settles = False

    def _set_aside(self, opened: Channel, start: int) -> None:
        """Another channel's frame in the middle of a publish: what there is of that one waits with its channel."""
        opened.publish.set_aside(self.splice, start)
        self.opened = None

    def take_run(self, kind: int, number: int, start: int, end: int) -> bool:
        self.start = start
        self.end = end
        channel = self.session.channels.get(number)
        if self.opened is not None and channel is not self.opened:
            self._set_aside(self.opened, start)
        if channel is None or not channel.ready:
            return False
        data = self.splice.data
        count = kind >> COUNT
        kind &= KIND
        if kind == ACKS:
            self.settles = True
            first: int = _u64(data, start + 11)[0]
            return acked(self.session, channel, first, first + count - 1)
        if kind == PUBLISHES:
            # The two names stand between a reserved short and an octet of bits.
            key = data[start + 13 : start + int(size_at(data, start + 3)[0]) + FRAME_OVERHEAD - 2]
            route = self.session.routes.find(key)
            if channel.path.pass_run(self.splice, start, end, route, count, self.now):
                self.note(channel.path, count)
                return True
        return False

    def take(self, kind: int, number: int, start: int, end: int) -> None:
        session = self.session
        splice = self.splice
        data = splice.data
        self.start = start
        self.end = end
        channel = session.channels.get(number)
        if self.opened is not None and channel is not self.opened:
            self._set_aside(self.opened, start)
        if channel is None:
            # Whatever this leads to must not overtake what came before it.
            self._write()
            new = control.off_channel(session, kind, number, data, start, end)
            if session.buffers and number in session.channels:
                new = session.side.request(data[start:end])
        elif channel.pending is not None:
            session.wait(channel, data[start:end])
            new = b""
        elif kind != METHOD:
            self._take_content(channel, kind, start, end)
            return
        else:
            method = method_of(data, start, end)
            publish = channel.publish
            if publish.route is not None:
                raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a publish", method)
            if method == BASIC_PUBLISH:
                publish.begin(data, start, end)
                self.opened = channel
                return
            if method in _SETTLING:
                self.settles = True
                new = settle(session, channel, method, data, start, end)
            else:
                self._write()
                new = control.from_client(session, channel, method, data, start, end)
                if session.buffers:
                    new = session.side.request(data[start:end] if new is None else new)
        if new is not None:
            splice.replace(start, end, new)

    def _take_content(self, channel: Channel, kind: int, start: int, end: int) -> None:
        """A header or body of a publish."""
        publish = channel.publish
        splice = self.splice
        if kind == BODY:
            publish.take_body(end - start - FRAME_OVERHEAD)
        elif kind == HEADER:
            refusal = publish.take_header(channel.path, splice.data, start, end)
            if refusal is not None:
                splice.replace(start if self.opened is None else publish.begun, end, b"")
                self.session.broker_write(splice.take())
                self.session.refuse_channel(channel, refusal.code, refusal.text, BASIC_PUBLISH)
                self.opened = None
                return
        else:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
        if self.opened is None:
            publish.add(splice, start, end)
        if publish.left == 0:
            channel.path.submit(publish, splice, end, self.now)
            self.note(channel.path, 1)
            self.opened = None

    def _write(self) -> None:
        """Let everything go to the broker that stands before this frame, as the client waits for an answer."""
        self.urgent = True
        self.splice.until(self.start)
        self.session.broker_write(self.splice.take())

    def send(self) -> None:
        """Send what passes to the broker; what is not urgent may leave together with what comes later."""
        self.splice.until(self.end)
        out = self.splice.take()
        if out:
            session = self.session
            session.touched = self.now
            if self.urgent:
                session.broker_write(out)
            else:
                session.broker_write_soon(out, 0 if self.settles else self.count, self.backlog)


def pass_to_client(session: Session, broker: BrokerConnection, data: bytes) -> bool:
    """Take what has come from the broker, if it is one run of deliveries or confirms that may pass on as it came."""
    reader = broker.reader
    found_by = whole_numbers
    if len(data) < ACK_SIZE or found_by is None or not reader.between_frames:
        return False
    run = found_by(data, reader.limit, session.consumer)
    if run is None:
        return False
    number, first, last, consumer = run
    channel = session.channels.get(number)
    if channel is None or channel.incoming is not None or channel.passing:
        return False
    if session.refused and number in session.refused:
        return False
    if consumer is not None:
        session.consumer = consumer
        if not session.consumer_pause.deliver_run(channel, consumer, first, last):
            return False
        session.client_write(data)
        return True
    path = channel.path
    before = path.backlog
    if not (path.acked(first, last) if first else path.acked_up_to(last)):
        return False
    left = path.backlog
    session.client_write_soon(data, before - left, left)
    return True


def from_broker(session: Session, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
    """Take frames (and runs) of the broker and pass on what may pass. Raises :class:`AmqpError` when the broker breaks
    the protocol."""
    flow = _FromBroker(session, data, frames[0][2])
    try:
        flow.take_all(frames)
    except AmqpError:
        flow.end = flow.start
        raise
    finally:
        flow.send()


class _FromBroker(Reading):
    """What is read of the broker at once, on its way to the client."""

    __slots__ = ("_begun", "_opened", "session")

    def __init__(self, session: Session, data: bytes, start: int) -> None:
        Reading.__init__(self, data, start)
        self.session = session
        #: With a spool: the channel that is being talked on, and where its last message begins. The client gets whole
        #: ones, as the broker may be lost in the middle of one.
        self._opened: Channel | None = None
        self._begun = 0

    def take_run(self, kind: int, number: int, start: int, end: int) -> bool:
        session = self.session
        self.start = start
        self.end = end
        channel = session.channels.get(number)
        if self._opened is not None and channel is not self._opened:
            self._leave(self._opened, start)
        if channel is None or channel.incoming is not None or channel.passing or number in session.refused:
            return False
        data = self.splice.data
        count = kind >> COUNT
        kind &= KIND
        if kind == ACKS:
            first: int = _u64(data, start + 11)[0]
            before = channel.path.backlog
            if not channel.path.acked(first, first + count - 1):
                return False
            self.note(channel.path, before - channel.path.backlog)
            return True
        self.urgent = True
        if kind == DELIVERIES:
            at = start + 12 + data[start + 11]
            first = _u64(data, at)[0]
            return session.consumer_pause.deliver_run(channel, data[start + 12 : at], first, first + count - 1)
        return False

    def take(self, kind: int, number: int, start: int, end: int) -> None:
        session = self.session
        splice = self.splice
        data = splice.data
        self.start = start
        self.end = end
        channel = session.channels.get(number)
        if self._opened is not None and channel is not self._opened:
            self._leave(self._opened, start)
        if session.refused and number in session.refused:
            self.urgent = True
            new = answers.on_refused(session, kind, number, data, start, end)
        elif channel is None:
            self.urgent = True
            # A close must not overtake what came before it.
            splice.until(start)
            session.client_write(splice.take())
            new = answers.off_channel(session, kind, number, data, start, end)
        elif kind == METHOD:
            if channel.incoming is not None or (session.buffers and channel.passing):
                answers.end_content(channel)
            channel.delivery = None
            method = method_of(data, start, end)
            if method in (BASIC_ACK, BASIC_NACK):
                tag, bits = settlement(data, start, end)
                before = channel.path.backlog
                new = channel.path.answered(tag, bool(bits & 1), method == BASIC_ACK)
                self.note(channel.path, before - channel.path.backlog)
                self.urgent = self.urgent or method == BASIC_NACK
            else:
                self.urgent = True
                if method == BASIC_DELIVER:
                    new = session.consumer_pause.deliver(channel, data, start, end)
                else:
                    new = _answer(session, channel, splice, method, start, end)
                if session.buffers:
                    self._opened = channel
                    self._begun = start
        elif channel.incoming is not None:
            self.urgent = True
            new = channel.incoming.take(data, start, end)
        else:
            self.urgent = True
            if kind == BODY:
                channel.passing -= end - start - FRAME_OVERHEAD
            elif kind == HEADER:
                channel.passing = content.body_size(data, start)
                note = channel.delivery
                if note is not None:  # it is to be a span
                    channel.delivery = None
                    note.take_header(session.tracing, data, start, end)
            return
        if new is not None:
            splice.replace(start, end, new)

    def _leave(self, channel: Channel, end: int) -> None:
        """What comes next is not on this channel: if that cuts a message, all there is of it waits with its channel."""
        self._opened = None
        if channel.passing:
            self.splice.replace(end, end, channel.withhold(self.splice.withdraw(self._begun, end)))

    def send(self) -> None:
        """Send what passes to the client."""
        if self._opened is not None:
            self._leave(self._opened, self.end)
        self.splice.until(self.end)
        out = self.splice.take()
        if self.urgent:
            self.session.client_write(out)
        else:
            self.session.client_write_soon(out, self.count, self.backlog)


def _answer(session: Session, channel: Channel, splice: Splice, method: int, start: int, end: int) -> bytes | None:
    """Neither a delivery nor a confirm: what it leads to must not overtake what came before it."""
    splice.until(start)
    session.client_write(splice.take())
    session.side.answered(channel.number, method, splice.data, start, end)
    return answers.from_broker(session, channel, method, splice.data, start, end)
