"""The publish path with a spool: publishes are buffered until somebody stands for them, the broker by its confirm, or
the spool."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.watchdog import STUCK_SECONDS
from sidecar.amqp.flow.confirms import Confirms
from sidecar.amqp.flow.gates import SwitchGate
from sidecar.amqp.relay.channel import REPLIES
from sidecar.amqp.relay.publishing import IncomingPublish, PublishPath, size_at
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import BASIC_PUBLISH, PRECONDITION_FAILED, REPLY_TO, USER_ID, AmqpError
from sidecar.amqp.wire.methods import confirm_select, publish_answers

if TYPE_CHECKING:
    from sidecar.amqp.flow.publish import Publish
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.spool.intake import Intake
    from sidecar.amqp.wire.splice import Splice

#: Bytes of unconfirmed publishes that a channel may have, whatever their number.
_WINDOW_BYTES: Final = 8 << 20
#: RabbitMQ's direct reply-to.
_REPLY_TO: Final = b"amq.rabbitmq.reply-to"
#: In the upper octet of the properties' flags.
_HAS_REPLY_TO: Final = REPLY_TO >> 8
#: ``mandatory`` and ``immediate`` among the bits of ``basic.publish``.
_ANSWERED: Final = 3


class Buffered(PublishPath):
    """One channel's publishes are confirmed by the broker even if the client did not ask for that, and buffered until
    then. Those of a channel in tx mode are not: they are the transaction's."""

    __slots__ = (
        "_buffered", "_confirming", "_intake", "_limit", "behind", "channel", "client_confirms", "gate", "late",
        "leaving", "storing",
    )  # fmt: skip

    def __init__(self, channel: Channel, intake: Intake) -> None:
        PublishPath.__init__(self, channel.session, channel.number)
        self.channel = channel
        self._intake = intake
        self._limit = intake.settings.window
        #: The broker confirms what is published on this channel; and the client wants to know.
        self._confirming = False
        self.client_confirms = False
        #: Bytes of the publishes that the broker has not confirmed.
        self._buffered = 0
        #: Publishes that are on their way to the disk.
        self.storing = 0
        #: Since when a close, of it or of its connection, waits until the broker has confirmed everything (what is not
        #: confirmed by the time of the answer might be lost with the broker); inf: none does.
        self.leaving = inf
        #: It waits no longer: what is not confirmed then goes again, out of the spool.
        self.late = False
        self.gate = SwitchGate("confirms of the broker")
        self.window = self.gate
        self.measure()  # there may be no broker
        #: Where publishes wait whose place in the spool is not known yet.
        self.behind = SwitchGate("confirms of the broker", apart=True)

    @property
    def busy(self) -> bool:
        return self.held > 0 or self.storing > 0 or self.unconfirmed

    @property
    def unconfirmed(self) -> bool:
        """A close waits for the broker's word on something."""
        return not self.late and self.confirms is not None and self.confirms.unanswered > 0

    @property
    def _cut_off(self) -> bool:
        """There is no broker to write to: the connection is lost, or this channel was closed while something of it was
        on its way to the disk."""
        return self.session.detached or self.channel.gone

    # -- from the client -----------------------------------------------------------------------------------------------

    def select_confirms(self) -> None:
        self.client_confirms = True
        self._confirming = True
        PublishPath.select_confirms(self)

    def refusal(self, data: bytes, start: int, end: int) -> AmqpError | None:
        if not self.session.detached:
            return None
        # The broker would refuse it; and who may bear another's name (RabbitMQ's impersonators), only it knows.
        claimed = content.user_id(data, start, end)
        if claimed is None or claimed == self.user:
            return None
        text = f"user_id property set to '{claimed}' but authenticated user was '{self.user}'"
        return AmqpError(PRECONDITION_FAILED, f"PRECONDITION_FAILED - {text}", BASIC_PUBLISH, self.number)

    def mark(self) -> bytes:
        return self._intake.mark()

    def submit(self, incoming: IncomingPublish, splice: Splice, end: int, now: float) -> None:
        frames = incoming.take_out(splice, end)
        route = incoming.route
        assert route is not None
        incoming.left = -1
        route.stats.published += 1
        out = splice.out
        if not self._confirming and not self.one_lane:
            self._confirming = True
            self.confirms = Confirms()
            out.append(self.session.request(confirm_select(self.number)))
        tag = self.confirms.received() if self.client_confirms and self.confirms is not None else 0
        publish = self.publish(incoming, frames, tag, now)
        scheduler = self.session.scheduler
        publish.arrival = scheduler.arrival()
        if self.held:
            lane = self.lanes.get("" if self.one_lane else route.lane)
            if lane is not None:
                self.session.schedule(publish, lane.gate, now)
                return
        spoolable = self._spoolable(publish)
        if spoolable:
            if self.session.detached or self.session.amqp_stats.blocked:
                publish.waits_for = "a broker" if self.session.detached else "alarm of the broker"
                self._spool(publish, now)
                return
            if self._intake.queued(route):
                publish.waits_for = "those before it in the spool"
                self._line_up(publish, now)
                return
        gate = scheduler.closed_gate(self, route, now)
        if gate is None:
            out.append(self._sent(publish))
        elif spoolable and gate.over == "spool":
            publish.waits_for = gate.name
            publish.spools = True
            self._line_up(publish, now)
        elif tag and gate.over == "nack":
            publish.waits_for = gate.name
            self.refuse(publish)
        else:
            self.session.schedule(publish, gate, now)

    def _line_up(self, publish: Publish, now: float) -> None:
        """It goes into the spool, but not before it is known what becomes of those that the broker has not confirmed.
        If they are lost, they go there, too, and have to be in front of it; if not, the broker may still be reading
        them when what is in the spool comes over another connection."""
        if self._under_way(publish.route.lane):
            self.behind.set(True)
            self.session.schedule(publish, self.behind, now)
        else:
            self._spool(publish, now)

    def _under_way(self, lane: str) -> bool:
        confirms = self.confirms
        if confirms is None or not confirms.unanswered or self._cut_off or self.session.amqp_stats.blocked:
            return False
        return any(publish.route.lane == lane for publish in confirms.left())

    # -- what was held -------------------------------------------------------------------------------------------------

    def exempt(self, publish: Publish) -> bool:
        # As in submit().
        elsewhere = self._cut_off or self.session.amqp_stats.blocked or self._intake.queued(publish.route)
        return publish.spools or (elsewhere and self._spoolable(publish))

    def bypasses(self, publish: Publish) -> bool:
        # It waits for room in the spool, and needs none any more.
        return not self.exempt(publish)

    def spoolable(self, publish: Publish) -> bool:
        return self._spoolable(publish)

    def spool(self, publish: Publish) -> None:
        publish.spools = True
        self._line_up(publish, self.session.listener.clock())

    def spool_held(self) -> None:
        """The broker is gone: what was held for whatever reason is safer on the disk. What may not be spooled, and what
        is behind that in its lane, stays."""
        now = self.session.listener.clock()
        staying: set[str] = set()
        for publish in self.session.scheduler.forget(self):
            lane = publish.route.lane
            if lane not in staying and self._spoolable(publish):
                self._spool(publish, now, True)
            else:
                staying.add(lane)
                self.session.schedule(publish, self.gate, now)

    def forward(self, publish: Publish) -> None:
        if self.exempt(publish):
            self._line_up(publish, self.session.listener.clock())
        else:
            self.session.broker_write(self._sent(publish))

    def refuse(self, publish: Publish) -> None:
        if not self.channel.gone:
            PublishPath.refuse(self, publish)

    # -- the broker's word ---------------------------------------------------------------------------------------------

    def answered(self, number: int, multiple: bool, positive: bool) -> bytes | None:
        confirms = self.confirms
        if confirms is None:
            return b""
        tags: list[int] = []
        session = self.session
        for publish in confirms.settled(number, multiple):
            self._buffered -= len(publish.frames)
            if not positive:
                self.tell_refused(publish)
            publish.frames = b""
            if positive:
                publish.route.stats.confirmed += 1
            else:
                # One that asked for no confirms would not have heard of it: that is how queues drop what they reject.
                publish.route.stats.nacked += 1
            if publish.trace is not None:
                error = "" if positive else "nacked"
                session.tracing.published(publish.trace, publish.route, publish.since, error)
            if publish.tag:
                tags.append(publish.tag)
        self.measure()
        self.behind.set(False)
        self._now_unanswered(confirms.unanswered)
        if not confirms.unanswered and self.leaving != inf:
            session.listener.loop.call_soon(self.emptied)
        answers = confirms.answers(tags)
        if positive:
            session.amqp_stats.acks_by_broker += len(tags)
        if confirms.same and self.client_confirms:
            return None
        return publish_answers(self.number, answers, positive)

    def broker_lost(self, now: float) -> None:
        # What the broker has not confirmed it may have, or not: it goes again, out of the spool.
        confirms = self.confirms
        if confirms is None:
            self.measure()
            return
        publishes = confirms.left()
        confirms.restart()
        self._buffered = 0
        spoolable: list[Publish] = []
        others: list[Publish] = []
        for publish in publishes:
            publish.waits_for = "a broker: its own was lost before it confirmed"
            (spoolable if self._spoolable(publish) else others).append(publish)
        if spoolable:
            self.storing += len(spoolable)
            if not self._intake.take(spoolable, True):
                self.storing -= len(spoolable)
                for publish in spoolable:
                    self.no_room(publish)
        for publish in others:
            if self.session.detached:
                # It goes again over the client's next connection, before everything that came later.
                self.session.schedule(publish, self.gate, now)
            elif publish.tag:
                self.refuse(publish)
            else:
                publish.route.stats.dropped += 1
        self.measure()

    def measure(self) -> None:
        """Open or close the window: how many publishes are unconfirmed, or may be, has changed."""
        confirms = self.confirms
        unanswered = confirms.unanswered if confirms is not None else 0
        closed = unanswered >= self._limit or self._buffered >= _WINDOW_BYTES or self.session.detached
        if closed != self.gate.closed:
            self.gate.set(closed)

    # -- the client goes -----------------------------------------------------------------------------------------------

    def look(self, now: float) -> bool:
        """Whether a close that waits for confirms has done so for too long, since now."""
        if self.late or now - self.leaving <= STUCK_SECONDS or not self.unconfirmed:
            return False
        self.late = True
        return True

    def close_up(self, now: float) -> None:
        if self.channel.ending and self.late:
            self.broker_lost(now)

    def drop_held(self) -> None:
        # What was held when its channel or connection went is spooled as well.
        for publish in self.session.scheduler.forget(self):
            self._give_up(publish)

    # -- the spool's word ----------------------------------------------------------------------------------------------

    def confirmed(self, publishes: list[Publish]) -> int:
        """Somebody stands for these: the client is told, where it wants to be. How many of them that were."""
        confirms = self.confirms
        if confirms is None or not self.client_confirms or self.channel.gone:
            return 0
        tags = [publish.tag for publish in publishes if publish.tag]
        self.session.client_write(publish_answers(self.number, confirms.answers(tags), True))
        return len(tags)

    def stored(self, count: int) -> None:
        """So many publishes are no longer on their way to the disk."""
        self.storing -= count
        if not self.storing and not self.held:
            self.emptied()

    def _give_up(self, publish: Publish) -> None:
        """It was held, and what it was held for is gone: into the spool, if that may be."""
        if self._spoolable(publish) and self._may_fit(publish):
            self._spool(publish, self.session.listener.clock(), True)
            return
        if publish.tag:
            self.refuse(publish)
        publish.route.stats.dropped += 1

    def no_room(self, publish: Publish) -> None:
        """The spool cannot take it."""
        publish.spools = False
        here = not self.channel.gone
        if publish.tag and here and self._intake.settings.over == "nack":
            publish.waits_for = "room in the spool"
            self.refuse(publish)
        elif here or self._may_fit(publish):
            self.session.schedule(publish, self._intake.gate(publish.route), self.session.listener.clock())
        else:
            # Neither the spool nor any channel will ever take it.
            publish.route.stats.dropped += 1

    def _may_fit(self, publish: Publish) -> bool:
        """The spool can take it, once enough has left."""
        return len(publish.frames) < self._intake.spool.max_bytes

    def _spoolable(self, publish: Publish) -> bool:
        if self.one_lane or not self.user:
            return False
        route = publish.route
        if not route.exchange and route.routing_key.startswith(_REPLY_TO.decode()):
            return False
        frames = publish.frames
        header = size_at(frames, 3)[0] + 8
        flags = header + content.FLAGS
        if frames[flags] & _HAS_REPLY_TO and _is_request(frames):
            return False  # its answer only this connection can get
        if frames[flags + 1] & USER_ID and not self._own(frames, header):
            return False  # whose name it may bear is for the broker to judge
        return not frames[header - 2] & _ANSWERED or self._intake.settings.mandatory

    def _own(self, frames: bytes, header: int) -> bool:
        """The publish bears no user-id, or that of the user that this session has logged in as."""
        try:
            claimed = content.user_id(frames, header, header + size_at(frames, header + 3)[0] + 8)
        except AmqpError:
            return False
        return claimed is None or claimed == self.user

    def _spool(self, publish: Publish, now: float, urgent: bool = False) -> None:
        self.storing += 1
        if not self._intake.take([publish], urgent):
            self.storing -= 1
            self.no_room(publish)

    def _sent(self, publish: Publish) -> bytes:
        publish.route.stats.forwarded += 1
        frames = publish.frames
        channel = self.channel
        if channel.replies and REPLIES in channel.consumers.values() and _is_request(frames):
            channel.asked += 1
        if self.one_lane or self.confirms is None:
            publish.frames = b""
            return frames
        self._buffered += len(frames)
        self.confirms.forwarded(publish)
        self.measure()
        return frames


def _is_request(frames: bytes) -> bool:
    """Whether a publish asks for a direct reply."""
    header = size_at(frames, 3)[0] + 8
    if not frames[header + content.FLAGS] & _HAS_REPLY_TO:
        return False
    return frames.find(_REPLY_TO, header, header + size_at(frames, header + 3)[0] + 8) >= 0
