"""A channel's publishes on their way to the broker: the one that is being read, and the path that whole ones take."""

from __future__ import annotations

import logging
from struct import Struct
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.confirms import Confirms
from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.publish import ID_HEADER, Publish
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import (
    BASIC_PUBLISH,
    PRECONDITION_FAILED,
    RESOURCE_ERROR,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import basic_nack

if TYPE_CHECKING:
    from sidecar.amqp.flow.partitions import Partition
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.flow.tracing import PublishTrace
    from sidecar.amqp.relay.session_state import SessionState
    from sidecar.amqp.wire.splice import Splice

#: As it stands in a table.
_ID: Final = bytes((len(ID_HEADER),)) + ID_HEADER.encode()
#: Bytes that each piece costs, however small it is.
PIECE: Final = 64

logger = logging.getLogger("sidecar.amqp")

size_at: Final = Struct(">I").unpack_from


class IncomingPublish:
    """The publish of one channel that is being read: its method, its header and its bodies, until it is whole.

    While all of it is in what was read last, it stays there: ``begun`` is where. When the reading ends before it does,
    or another channel's frame comes between, it is set aside in pieces (``begun`` is -1 then).
    """

    __slots__ = (
        "_header_end", "_header_start", "_method", "_parts", "_session", "begun", "header", "left", "route", "size",
        "trace",
    )  # fmt: skip

    def __init__(self, session: SessionState) -> None:
        self._session = session
        #: Where it leads; ``None``: there is none.
        self.route: PublishRoute | None = None
        self.begun = -1
        #: How many bytes of body are missing; -1: its header too.
        self.left = -1
        #: What to send in place of its header, and where that is in what is being read; empty: as it is.
        self.header = b""
        self._header_start = 0
        self._header_end = 0
        #: Its method, when that is to be changed once the header is known.
        self._method = b""
        self.trace: PublishTrace | None = None
        #: What was set aside, and what that costs, bytes.
        self._parts: list[bytes] = []
        self.size = 0

    def begin(self, data: bytes, start: int, end: int) -> None:
        """Take its method. Raises :class:`AmqpError`."""
        # Class, method and a reserved short come first; behind exchange and routing key an octet of bits.
        if end - start < 17:
            raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - basic.publish ends too early", BASIC_PUBLISH)
        self.route = route = self._session.routes.find(data[start + 13 : end - 2])
        if route.partition is not None:
            self._method = data[start:end]
        self.begun = start

    def take_header(self, path: PublishPath, data: bytes, start: int, end: int) -> AmqpError | None:
        """Take its header: how long it will be, its trace and its partition. Returns why its channel has to be closed,
        if it has. Raises :class:`AmqpError` for what ends the connection."""
        route = self.route
        if route is None:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - content without a publish")
        if self.left >= 0:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a second header in one publish")
        session = self._session
        self.left = size = content.body_size(data, start)
        if size > session.max_message_size:
            text = f"PRECONDITION_FAILED - message size {size} is larger than the sidecar's max_message_size, "
            return AmqpError(PRECONDITION_FAILED, text + str(session.max_message_size), BASIC_PUBLISH, path.number)
        mark = instead = b""
        if session.buffers:
            refusal = path.refusal(data, start, end)
            if refusal is not None:
                return refusal
            mark = path.mark()
            if mark:
                instead = _ID
        tracing = session.tracing
        ids = tracing.begin()
        contexts = tracing.contexts
        new: bytes | None = None
        if contexts:
            entries = tracing.entries(ids) + mark
            new = content.inject(data, start, end, entries, session.handshake.frame_max, False, instead, contexts)
        trace: PublishTrace | None
        if new is None and contexts:  # most likely it has a trace of its own
            tracing.unused()
            trace = tracing.of(data, start, end)
        else:
            trace = tracing.begun(ids)
        if new is None and mark:
            new = content.inject(data, start, end, mark, session.handshake.frame_max, True, instead)
        if trace is not None and not isinstance(trace, str) and trace.sampled:
            trace.describe(data, start, end)
        self.trace = trace
        if new is not None:
            self.header = new
            self._header_start = start
            self._header_end = end
        if route.partition is not None:
            return self._into_partition(route.partition, data, start, end)
        return None

    def _into_partition(self, partition: Partition, data: bytes, start: int, end: int) -> AmqpError | None:
        """Give it the routing key of its partition."""
        try:
            method = partition.rewrite(self._method, data, start, end)
        except AmqpError as error:
            if error.channel:
                return error
            raise
        self._method = b""
        self.route = self._session.routes.find(method[13:-2])
        if self.begun >= 0:
            # Method and header stand side by side: both are replaced as one.
            self.header = method + (self.header or data[start:end])
            self._header_start = self.begun
            self._header_end = end
        else:
            self._parts = [method]
        return None

    def take_body(self, size: int) -> None:
        """Count a part of its body. Raises :class:`AmqpError`."""
        if self.route is None or self.left < 0:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body without a header")
        self.left -= size
        if self.left < 0:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a body longer than its header says")

    def set_aside(self, splice: Splice, end: int) -> None:
        """Take what there is of it out of the splice, up to ``end``. Raises :class:`AmqpError` when too much is set
        aside on all channels of the session."""
        self.add(splice, self.begun, end)
        self.begun = -1

    def add(self, splice: Splice, start: int, end: int) -> None:
        """Set a further piece of it aside. Every piece costs something, empty ones too."""
        piece = self._piece(splice.data, start, end)
        session = self._session
        size = len(piece) + PIECE
        self._parts.append(piece)
        self.size += size
        session.partial += size
        if session.partial > session.partial_limit:
            raise AmqpError(RESOURCE_ERROR, "RESOURCE_ERROR - too many unfinished publishes at once")
        splice.replace(start, end, b"")

    def _piece(self, data: bytes, start: int, end: int) -> bytes:
        """Its frames in ``data[start:end]``, with the new header in place of the old one."""
        if not self.header:
            return data[start:end]
        whole = data[start : self._header_start] + self.header + data[self._header_end : end]
        self.header = b""
        return whole

    def pass_on(self, splice: Splice) -> None:
        """It is whole, and goes on: where it is, if it has not been set aside."""
        if self.begun < 0:
            splice.out.append(self._assemble())
        else:
            self.begun = -1
            if self.header:
                splice.replace(self._header_start, self._header_end, self.header)
                self.header = b""

    def take_out(self, splice: Splice, end: int) -> bytes:
        """It is whole, and does not go on with the splice, where it ends at ``end``: its frames."""
        begun = self.begun
        if begun < 0:
            return self._assemble()
        self.begun = -1
        whole = self._piece(splice.data, begun, end)
        splice.replace(begun, end, b"")
        return whole

    def _assemble(self) -> bytes:
        whole = b"".join(self._parts)
        self._session.partial -= self.size
        self._parts = []
        self.size = 0
        return whole


class PublishPath(Sender):
    """The way of one channel's whole publishes to the broker, and of its confirms back to the client."""

    __slots__ = ("confirms", "number", "session")

    def __init__(self, session: SessionState, number: int) -> None:
        Sender.__init__(self)
        self.session = session
        self.number = number
        self.confirms: Confirms | None = None

    @property
    def backlog(self) -> int:
        """Publishes that the broker has not answered, and will."""
        confirms = self.confirms
        return 0 if confirms is None else confirms.unanswered

    @property
    def busy(self) -> bool:
        """Something of it is still to be done, whether its client waits for that or not."""
        return self.held > 0

    def select_confirms(self) -> None:
        """The client wants its publishes confirmed from now on."""
        if self.confirms is None:
            self.confirms = Confirms()

    def refusal(self, data: bytes, start: int, end: int) -> AmqpError | None:
        """Why a publish with this header cannot be taken."""
        return None

    def mark(self) -> bytes:
        """Table entries for a message that passes, besides those of its trace."""
        return b""

    def submit(self, incoming: IncomingPublish, splice: Splice, end: int, now: float) -> None:
        """Take the incoming publish, which is whole with what ends at ``end`` of the splice."""
        raise NotImplementedError

    def publish(self, incoming: IncomingPublish, frames: bytes, tag: int, now: float) -> Publish:
        """The incoming publish, with its frames."""
        route = incoming.route
        assert route is not None
        incoming.route = None
        header = size_at(frames, 3)[0] + 8
        end = header + size_at(frames, header + 3)[0] + 8
        publish = Publish(self, route, tag, frames, content.priority(frames, header, end), now)
        publish.trace = incoming.trace
        incoming.trace = None
        return publish

    def pass_run(self, splice: Splice, start: int, end: int, route: PublishRoute, count: int, now: float) -> bool:
        """Take a run of so many whole publishes, which is in the splice, if all of it may pass on at once; return
        whether it was taken."""
        return False

    def pass_whole(self, route: PublishRoute, size: int, count: int, added: int, now: float) -> bool:
        """The same for one that is all of a reading, so many bytes, in which so many have got a trace; who asks sends
        it."""
        return False

    def answered(self, number: int, multiple: bool, positive: bool) -> bytes | None:
        """The broker's answer to publishes, in the client's numbers; ``None``: as it came."""
        raise NotImplementedError

    def acked(self, first: int, last: int) -> bool:
        """The broker has taken each of the publishes with these numbers. Return whether the client may be told so as it
        came, and it is counted; else each answer is to be looked at (:meth:`answered`)."""
        return False

    def acked_up_to(self, last: int) -> bool:
        """The same for all publishes up to this number."""
        return False

    def _now_unanswered(self, count: int) -> None:
        """The broker has answered, and has so many still to answer: what waits for others may not wait any longer."""
        broker = self.session.broker
        if broker is not None and broker.batch is not None:
            broker.batch.answered(count)

    def broker_lost(self, now: float) -> None:
        """The broker is gone, and with it what it has not confirmed."""

    def drop_held(self) -> None:
        """The channel or the connection is gone: what is held is lost."""
        session = self.session
        dropped = session.scheduler.forget(self)
        for publish in dropped:
            publish.route.stats.dropped += 1
            if publish.trace is not None:
                session.tracing.published(publish.trace, publish.route, publish.since, "dropped")
        if dropped:
            logger.warning(
                "held messages are lost: the broker has closed their channel or connection",
                extra={"upstream": session.listener.name, "client": session.peer, "messages": len(dropped)},
            )

    def close_up(self, now: float) -> None:
        """The channel is gone."""

    def refuse(self, publish: Publish) -> None:
        """Tell the client that its publish was not taken."""
        if self.session.amqp_stats.stories is not None:
            self.session.amqp_stats.stories.nacked(publish)
        publish.frames = b""
        publish.route.stats.nacked_here += 1
        if publish.trace is not None:
            self.session.tracing.published(publish.trace, publish.route, publish.since, "refused")
        confirms = self.confirms
        assert confirms is not None
        for tag, multiple in confirms.answers([publish.tag]):
            self.session.client_write(basic_nack(self.number, tag, multiple, False))

    def tell_refused(self, publish: Publish) -> None:
        """The broker has refused it: remember that for those who ask why."""
        if self.session.amqp_stats.stories is not None:
            self.session.amqp_stats.stories.refused(publish)

    def emptied(self) -> None:
        """Nothing is held for this channel any more."""
        self.session.emptied(self.number, self)
