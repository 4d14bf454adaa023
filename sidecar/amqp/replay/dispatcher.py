"""Sends what is in the spool, over connections of the sidecar's own.

What belongs together (a *stream*: virtual host and lane) leaves in order: higher priority first, then what came first.
Streams take turns, a few messages each; a stream whose next message has a higher priority has its turn first. Each
message passes the limits that hold for everybody, in the same lines, and leaves the spool when the broker has confirmed
it.

    hungry ─ fetch ─> loaded ─ gates, window, connection ─> sent ─ ack ──> removed
              ^         ^                                     ├── connection lost: loaded again
              │         └─────────────────────────────────────┤
              └─────────── fetched again, one by one ─────────┼── nack: left in the spool for now
                                                              └── refused for good: dead letter

Fetching is the matter of :class:`Prefetch`, whose turn it is that of :class:`FairScheduler`, connections that of
:class:`PublisherPool`, what follows "sent" that of :class:`Outcomes`; here is what lies between, message by message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.publisher.connection import CHANNEL, Publisher
from sidecar.amqp.replay.backoff import StreamBackoff
from sidecar.amqp.replay.fair_scheduler import FairScheduler
from sidecar.amqp.replay.outcomes import Outcomes
from sidecar.amqp.replay.prefetch import Prefetch
from sidecar.amqp.replay.publisher_pool import PublisherPool
from sidecar.amqp.replay.publisher_slot import PublisherSlot, SaslLogin
from sidecar.amqp.replay.reasons import EXPIRED, REFUSED, TOO_LARGE
from sidecar.amqp.replay.stats import ReplayStats
from sidecar.amqp.replay.stream import Stream, StreamName
from sidecar.amqp.replay.streams import Streams
from sidecar.amqp.spool.message import SpooledMessage, to_frames
from sidecar.amqp.wire.constants import CONTENT_TOO_LARGE, AmqpError

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute, RouteTable
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.monitor.connection import TroubleLog
    from sidecar.amqp.spool.store import Spool
    from sidecar.net.wheel import TimerWheel

#: Seconds between two looks at what no event tells of; after so many ticks messages that nobody told of are looked for.
TICK: Final = 1.0
_UNSEEN: Final = 3


class Dispatcher:
    """Sends what is in ``spool``. ``routes`` gives the limits of a virtual host, ``login`` what to log in with there as
    a user (empty: the sidecar's own account, or whoever may do it; ``None``: that is not known), ``connect`` makes the
    connection of a publisher (:meth:`Connector.connect`). ``clock`` is the loop's, ``wall`` Unix time.

    ``window`` is how many messages of a stream may be unconfirmed, ``dead_after`` how many refusals make a message a
    dead letter (0: none do). Whoever puts messages into the spool calls :meth:`added` when they are on the disk.

    ``on_settled`` is called with messages that are done with: the broker has them (True), or they are dead letters;
    ``on_alarm`` when the broker blocks one of our connections, and when none is blocked any more.
    """

    __slots__ = (
        "_backoff",
        "_clock",
        "_ending",
        "_on_admitted",
        "_outcomes",
        "_pool",
        "_prefetch",
        "_quiet",
        "_report",
        "_routes",
        "_scheduler",
        "_spool",
        "_streams",
        "_timer",
        "_turns",
        "_wall",
        "_window",
        "stats",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        spool: Spool,
        scheduler: Scheduler,
        routes: Callable[[str], RouteTable],
        login: Callable[[str, str], SaslLogin | None],
        connect: Callable[[Publisher], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        report: TroubleLog,
        window: int = 256,
        dead_after: int = 5,
    ) -> None:
        self._spool = spool
        self._scheduler = scheduler
        self._routes = routes
        self._clock = clock
        self._wall = wall
        self._report = report
        self._window = window
        self.stats = ReplayStats()
        self._on_admitted = self._admitted
        self._streams = Streams(spool, self._begin)
        self._prefetch = Prefetch(spool, self._all, self._go_on, wheel, clock)
        self._turns = FairScheduler(clock, call_soon, self._send_next, self._prefetch.want, self._round_over)
        self._backoff = StreamBackoff(wheel, clock, self._rested)
        self._outcomes = Outcomes(
            spool, self._streams.by_name, self._prefetch, self._backoff, self.stats, scheduler.stats, clock, report,
            dead_after, self._go_on,
        )  # fmt: skip
        self._pool = PublisherPool(
            name, login, connect, wheel, clock, call_soon, report, self._outcomes, self._released, self._lost
        )
        #: Set when what :meth:`close` waits for has come; and whether that is the end of all connections.
        self._quiet: asyncio.Event | None = None
        self._ending = False
        self._timer = wheel.timer(self._on_tick)

    # -- from outside --------------------------------------------------------------------------------------------------

    @property
    def on_settled(self) -> Callable[[list[SpooledMessage], bool], None] | None:
        return self._outcomes.on_settled

    @on_settled.setter
    def on_settled(self, told: Callable[[list[SpooledMessage], bool], None] | None) -> None:
        self._outcomes.on_settled = told

    def tell_of_dead(self, told: Callable[[SpooledMessage, str], None]) -> None:
        """Call ``told`` with each message that becomes a dead letter, and why."""
        self._outcomes.on_dead = told

    @property
    def on_alarm(self) -> Callable[[bool], None] | None:
        return self._pool.on_alarm

    @on_alarm.setter
    def on_alarm(self, told: Callable[[bool], None] | None) -> None:
        self._pool.on_alarm = told

    def start(self) -> None:
        """Begin with what is in the spool."""
        self._turns.running = True
        self._timer.set(self._clock() + TICK)
        self.look()

    async def close(self, seconds: float = 3.0) -> None:
        """Send nothing more; wait for confirms that are under way, for so long at most. What has none by then stays in
        the spool."""
        self._turns.running = False
        self._timer.close()
        self._backoff.close()
        self._prefetch.close()
        self._pool.stop()
        for stream in self._all():
            stream.withdraw()
        self._quiet = asyncio.Event()
        await self._wait_until_quiet(seconds)
        self._ending = True
        self._pool.say_goodbye()
        self._quiet.clear()
        await self._wait_until_quiet(min(seconds, 1.0))

    async def _wait_until_quiet(self, seconds: float) -> None:
        quiet = self._quiet
        self._see_whether_quiet()
        try:
            async with asyncio.timeout(seconds):
                if quiet is not None:
                    await quiet.wait()
        except TimeoutError:
            pass

    def _see_whether_quiet(self) -> None:
        """Before the end: whether what is waited for has come."""
        if self._quiet is None:
            return
        waiting = self._pool.connected if self._ending else self.unconfirmed > 0
        if not waiting:
            self._quiet.set()

    def configure(self, window: int, dead_after: int) -> None:
        """Other settings, for what comes from now on."""
        self._window = window
        self._outcomes.dead_after = dead_after
        for stream in self._all():
            stream.limit(window)

    def added(self, messages: list[SpooledMessage]) -> None:
        """These are in the spool now."""
        for message in messages:
            stream = self._streams.find(message.stream)
            if stream is not None:
                stream.cursor.added(message.position)
                stream.unseen = 0
                self._prefetch.want(stream)
        self._turns.wake()

    def look(self) -> None:
        """There may be messages in the spool that nobody told of."""
        self._streams.fill(True)
        for stream in self._all():
            if stream.cursor.ended:
                self._prefetch.reread(stream)
        self._turns.wake()

    def broker_is_back(self) -> None:
        """Somebody has just reached it: do not wait for the next try."""
        self._pool.try_again()

    def logins_changed(self) -> None:
        """A user's login may be known that was not, or may be good that was not."""
        self._pool.try_again(rejected=True)
        for stream in self._all():
            if stream.parked:
                self._prefetch.reread(stream, stream.parked_from)
        self._turns.wake()

    @property
    def unconfirmed(self) -> int:
        """Messages sent and not answered."""
        return sum(len(stream.sent) for stream in self._all())

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """The connections that cannot be made: virtual host, user, why."""
        return self._pool.problems

    # -- streams -------------------------------------------------------------------------------------------------------

    def _begin(self, name: StreamName) -> Stream:
        """See to one more."""
        stream = Stream(name, self._scheduler, self.stats, self._on_admitted, self._window, self._clock())
        self._prefetch.want(stream)
        return stream

    def _all(self) -> list[Stream]:
        return list(self._streams.by_name.values())

    def _go_on(self, stream: Stream) -> None:
        """Something about it has changed."""
        if stream.gone:
            return
        self._prefetch.want(stream)
        self._turns.offer(stream)
        if stream.idle and stream.name not in self._spool.streams:
            self._streams.drop(stream)
            self._streams.fill()
        if self._quiet is not None:
            self._see_whether_quiet()
        self._turns.wake()

    def _rested(self, stream: Stream, routing_key: str | None) -> None:
        """A pause is over."""
        if routing_key is not None:
            self._outcomes.retry(stream, routing_key)
        else:
            self._go_on(stream)

    def _released(self, streams: list[Stream]) -> None:
        """A connection that they have waited for is there, or has come to nothing."""
        for stream in streams:
            self._prefetch.want(stream)
            self._turns.offer(stream)
        self._turns.wake()

    def _lost(self, slot: PublisherSlot, left: list[object]) -> None:
        """A connection is gone."""
        for stream in self._outcomes.lost(left):
            self._turns.offer(stream)
        for stream in self._all():
            if stream.asking is not None and stream.slot is slot:
                stream.withdraw()
                self._turns.offer(stream)
        self._see_whether_quiet()

    def _round_over(self) -> None:
        self._pool.flush()
        self._prefetch.feed()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send_next(self, stream: Stream, now: float) -> bool:
        """Do what is to be done with a stream's next message. ``False``: it has to wait."""
        message = stream.loaded[0]
        if stream.stalled:
            self._prefetch.counts(stream)
        wall = self._wall()
        if message.expires and message.expires <= wall:
            del stream.loaded[0]
            self._outcomes.bury(stream, message, EXPIRED, 0, "")
            return True
        slot = self._pool.find(stream.name[0], message.user)
        if stream.deferred.by_routing_key and not stream.deferred.passes(message):
            del stream.loaded[0]
            self._prefetch.forget(stream, message)
            return True
        if slot is None or (message.user and (stream.awaits(message.user) or (slot.user and slot.rejected))):
            del stream.loaded[0]
            self._park(stream, message)
            return True
        if stream.sent and stream.slot is not slot:
            stream.crosses = True  # connections race with each other
            return False
        stream.crosses = False
        stream.slot = slot
        if not slot.open:
            slot.wait(stream)
            self._pool.dial(slot)
            return False
        route = self._route(message)
        gate = self._scheduler.closed_gate(stream, route, now)
        if gate is not None:
            stream.ask(gate, route, message, now)
            return False
        del stream.loaded[0]
        self._send(stream, slot, message, wall, route, now)
        return True

    def _admitted(self, stream: Stream, message: SpooledMessage) -> None:
        """The gates that the stream's first message waited for are open."""
        self._prefetch.counts(stream)
        slot = stream.slot
        if self._turns.running and slot is not None and slot.open and message in stream.loaded:
            stream.loaded.remove(message)
            self._send(stream, slot, message, self._wall(), self._route(message), self._clock())
        self._go_on(stream)

    def _send(
        self, stream: Stream, slot: PublisherSlot, message: SpooledMessage, wall: float, route: PublishRoute, now: float
    ) -> None:
        publisher = slot.publisher
        assert publisher is not None
        try:
            frames = to_frames(message, CHANNEL, publisher.frame_max, wall)
        except AmqpError as error:
            reason = TOO_LARGE if error.code == CONTENT_TOO_LARGE else REFUSED
            self._outcomes.bury(stream, message, reason, error.code, error.text)
            return
        stream.moved = now
        stream.sent[message.id] = message
        slot.idle_since = inf
        self.stats.sent += 1
        route.stats.forwarded += 1
        publisher.send(frames, message)

    def _route(self, message: SpooledMessage) -> PublishRoute:
        exchange = message.exchange.encode("utf-8", "surrogateescape")
        routing_key = message.routing_key.encode("utf-8", "surrogateescape")
        wire = bytes((len(exchange),)) + exchange + bytes((len(routing_key),)) + routing_key
        return self._routes(message.vhost).find(wire)

    def _park(self, stream: Stream, message: SpooledMessage) -> None:
        """Leave it in the spool until its user's login is known."""
        self._prefetch.forget(stream, message)
        stream.park(message)
        if stream.deferred.by_routing_key and stream.deferred.tries(message):
            self._prefetch.release(stream, message.routing_key)
        self._report.bad(
            f"spool, user {message.user[:80]}",
            "login",
            "messages of this user wait until that user has logged in through this sidecar",
        )

    # -- time ----------------------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        """What no event tells of."""
        now = self._clock()
        self._timer.set(now + TICK)
        self._pool.look()
        there = self._spool.streams
        for stream in self._streams.stuck(now):
            self._prefetch.leave(stream)
            self._streams.drop(stream)
        self._streams.fill(True)
        for stream in self._all():
            if stream.parked and any(self._pool.may_log_in(stream.name[0], user) for user in stream.awaited()):
                self._prefetch.reread(stream, stream.parked_from)
            self._look_for_unseen(stream, there[stream.name].count if stream.name in there else 0)
            self._go_on(stream)

    def _look_for_unseen(self, stream: Stream, count: int) -> None:
        """Look for messages on the disk that nobody has told of, if they are not just on their way there."""
        if count <= stream.known or stream.left or stream.cursor.busy or stream.hungry:
            stream.unseen = 0
        elif stream.cursor.ended:
            stream.unseen += 1
            if stream.unseen >= _UNSEEN:
                self._prefetch.reread(stream)
