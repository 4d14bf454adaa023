"""The broker's side of a session: what is there in the broker's place, and what becomes of the client without it.

Without a spool it is :class:`Attached` for good. With one there are others (:mod:`sidecar.amqp.failover.session`), and
a session has one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.flow.confirms import Confirms, each
from sidecar.amqp.flow.gates import Gate
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.relay.publishing import IncomingPublish, PublishPath
from sidecar.amqp.wire.methods import publish_answers

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session_state import SessionState
    from sidecar.amqp.wire.splice import Splice
    from sidecar.core.replies import Reply
    from sidecar.exchange.filter import Again


class BrokerSide:
    """What a session asks of it. Here are the answers of a side that has no spool: nothing outlives its broker."""

    __slots__ = ()

    # -- what passes ---------------------------------------------------------------------------------------------------

    def publish_path(self, channel: Channel) -> PublishPath:
        """The path for the publishes of a new channel."""
        raise NotImplementedError

    def login(self, frame: bytes) -> None:
        """A frame of the client's handshake. Raises :class:`AmqpError`."""
        raise NotImplementedError

    def request(self, frames: bytes) -> bytes:
        """What the client asks of the broker (no publishes, deliveries or settlements): what is to be written to it."""
        return frames

    def new_secret(self, secret: bytes) -> bytes | None:
        """``connection.update-secret``: what goes on in its place."""
        return None

    def handshake_said(self, method: int, data: bytes, start: int, end: int) -> None:
        """The broker says this in the handshake."""

    def answered(self, number: int, method: int, data: bytes, start: int, end: int) -> None:
        """The broker says this on a channel, and it is neither a delivery nor a confirm."""

    def opened(self) -> None:
        """The handshake is over."""

    def channel_gone(self, number: int) -> None:
        """A channel does not exist any more."""

    # -- without a broker, for the time being --------------------------------------------------------------------------

    @property
    def has_channels(self) -> bool:
        """There is a broker that knows the client's channels, or is about to."""
        return True

    @property
    def client_may_be_silent(self) -> bool:
        """The client waits for an answer and sends no heartbeats meanwhile."""
        return False

    def overtakes(self, channel: Channel, frame: bytes) -> bool:
        """A frame that must not overtake what is held: whether it need not wait all the same, and was taken."""
        return False

    def waits(self, number: int) -> bool:
        """Whether a channel waits for a broker, not only for what is held."""
        return False

    def answer(self) -> None:
        """Let the client hear what is said in the broker's place."""

    def look(self, now: float) -> None:
        """Now and then: something may have waited for too long."""

    # -- connections to brokers: whether it is for this side to see to what they hear ----------------------------------

    def connected(self, broker: BrokerConnection) -> bool:
        """A socket stands."""
        return False

    def said(self, broker: BrokerConnection, data: bytes) -> bool:
        """Bytes came."""
        return False

    def closed(self, code: int, text: str) -> bool:
        """The broker says ``connection.close``."""
        return False

    def lost(self, broker: BrokerConnection) -> bool:
        """A connection is gone."""
        return False

    # -- a client that comes while there is none: whether it is received here ------------------------------------------

    def begins_try(self) -> bool:
        """A broker is to be dialled."""
        return False

    def retries_later(self, again: Again) -> bool:
        """None could be had; another try is due."""
        return False

    def replies(self, reply: Reply) -> bool:
        """None can be had."""
        return False

    # -- the end -------------------------------------------------------------------------------------------------------

    def client_leaves(self) -> None:
        """The client goes, or has gone."""

    def client_left(self) -> None:
        """Its connection is gone; that of the broker may stay for what is held."""

    def ends(self) -> None:
        """The session is about to end."""

    def ended(self) -> None:
        """It has ended."""


class Attached(BrokerSide):
    """A session without a spool: its broker is there, or it ends."""

    __slots__ = ("_session",)

    def __init__(self, session: SessionState) -> None:
        self._session = session

    def publish_path(self, channel: Channel) -> PublishPath:
        return Direct(self._session, channel.number)

    def login(self, frame: bytes) -> None:
        self._session.broker_write(frame)


class Direct(PublishPath):
    """The path without a spool: a publish goes to the broker at once, or is held before a gate."""

    __slots__ = ()

    def submit(self, incoming: IncomingPublish, splice: Splice, end: int, now: float) -> None:
        route = incoming.route
        assert route is not None
        incoming.left = -1
        stats = route.stats
        stats.published += 1
        gate = self.session.scheduler.closed_gate(self, route, now)
        if gate is not None:
            self._hold(incoming, incoming.take_out(splice, end), gate, now)
            return
        incoming.route = None
        stats.forwarded += 1
        confirms = self.confirms
        if confirms is not None:
            publish = Publish(self, route, confirms.received(), b"", 0, now)
            publish.trace = incoming.trace
            confirms.forwarded(publish)
        elif incoming.trace is not None:
            self.session.tracing.published(incoming.trace, route, now)
        incoming.trace = None
        incoming.pass_on(splice)

    def _hold(self, incoming: IncomingPublish, frames: bytes, gate: Gate, now: float) -> None:
        """Let it wait for ``gate``; or refuse it, when that is the gate's rule and the client can be told."""
        confirms = self.confirms
        publish = self.publish(incoming, frames, confirms.received() if confirms is not None else 0, now)
        if publish.tag and gate.over == "nack":
            publish.waits_for = gate.name
            self.refuse(publish)
        else:
            self.session.schedule(publish, gate, now)

    def forward(self, publish: Publish) -> None:
        frames = publish.frames
        publish.frames = b""
        publish.route.stats.forwarded += 1
        if self.confirms is not None:
            self.confirms.forwarded(publish)
        if publish.trace is not None and not publish.tag:
            self.session.tracing.published(publish.trace, publish.route, publish.since)
        self.session.broker_write(frames)

    def pass_run(self, splice: Splice, start: int, end: int, route: PublishRoute, count: int, now: float) -> bool:
        session = self.session
        if not self._may_pass(route, end - start):
            return False
        new = session.tracing.add_to_run(splice.data, start, end, count, session.handshake.frame_max)
        if new is None or not self._passes(route, count, count, now):
            return False
        splice.replace(start, end, new)
        return True

    def pass_whole(self, route: PublishRoute, size: int, count: int, added: int, now: float) -> bool:
        return self._may_pass(route, size) and self._passes(route, count, added, now)

    def _may_pass(self, route: PublishRoute, size: int) -> bool:
        """Whether a run of so many bytes may pass, for all that is known here."""
        if self.held or route.partition is not None or size > self.session.max_message_size:
            return False
        confirms = self.confirms
        return confirms is None or confirms.in_step

    def _passes(self, route: PublishRoute, count: int, added: int, now: float) -> bool:
        """If the gates let so many through, they are counted as gone, and the traces that were added as used; whether
        that is so."""
        session = self.session
        if not session.scheduler.admits(self, route, count, now):
            return False
        session.tracing.run_added(added)
        stats = route.stats
        stats.published += count
        stats.forwarded += count
        confirms = self.confirms
        if confirms is not None:
            confirms.run_passed(self, route, count, now)
        return True

    def close_up(self, now: float) -> None:
        if self.confirms is not None:
            self.confirms.forget()

    def answered(self, number: int, multiple: bool, positive: bool) -> bytes | None:
        confirms = self.confirms
        if confirms is None:
            return None
        runs = confirms.take(number, multiple)
        if positive and confirms.same:
            self._confirmed(confirms, runs)
            return None
        tags: list[int] = []
        for publish in each(runs):
            if positive:
                publish.route.stats.confirmed += 1
            else:
                publish.route.stats.nacked += 1
                self.tell_refused(publish)
            if publish.tag:
                tags.append(publish.tag)
                if publish.trace is not None:
                    error = "" if positive else "nacked"
                    self.session.tracing.published(publish.trace, publish.route, publish.since, error)
        self._now_unanswered(confirms.unanswered)
        answers = confirms.answers(tags)
        if confirms.same:
            return None
        return publish_answers(self.number, answers, positive)

    def acked(self, first: int, last: int) -> bool:
        confirms = self.confirms
        if confirms is None:
            return True
        if not confirms.same:
            return False
        publish = confirms.front(first, last)
        if publish is None:
            self._confirmed(confirms, confirms.take_run(first, last))
            return True
        publish.route.stats.confirmed += confirms.answer_front(last)
        self._now_unanswered(confirms.unanswered)
        return True

    def acked_up_to(self, last: int) -> bool:
        confirms = self.confirms
        if confirms is None:
            return True
        return confirms.knows(last) and self.acked(1, last)

    def _confirmed(self, confirms: Confirms, runs: list[tuple[int, int, object]]) -> None:
        """The broker has taken these, and the client hears it in the broker's words."""
        for first, last, publish in runs:
            assert isinstance(publish, Publish)
            publish.route.stats.confirmed += last - first + 1
            if publish.trace is not None:
                self.session.tracing.published(publish.trace, publish.route, publish.since)
            confirms.answered(first, last)
        self._now_unanswered(confirms.unanswered)
