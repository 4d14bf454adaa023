"""Sends what is in the spool, over connections of the sidecar's own.

What belongs together (a *key*: virtual host and lane) leaves in order: higher priority first, then what came first.
Keys take turns, a few messages each; a key whose next message has a higher priority has its turn first. Each message
passes the limits that hold for everybody, in the same lines, and leaves the spool when the broker has confirmed it.

    hungry ─ fetch ─> loaded ─ gates, window, connection ─> sent ─ ack ──> removed
              ^         ^                                     ├── connection lost: loaded again
              │         └─────────────────────────────────────┤
              └─────────── fetched again, one by one ─────────┼── nack: left in the spool for now
                                                              └── refused for good: dead letter

Fetching is the matter of :class:`Prefetch`, whose turn it is that of :class:`Turns`, connections that of
:class:`Lines`, what follows "sent" that of :class:`Outcomes`; here is what lies between, message by message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.publisher.connection import CHANNEL, Publisher
from sidecar.amqp.replay.backoff import Rests
from sidecar.amqp.replay.fair_scheduler import Turns
from sidecar.amqp.replay.outcomes import Outcomes
from sidecar.amqp.replay.prefetch import Prefetch
from sidecar.amqp.replay.publisher_pool import Lines
from sidecar.amqp.replay.publisher_slot import Line, Login
from sidecar.amqp.replay.reasons import EXPIRED, REFUSED, TOO_LARGE
from sidecar.amqp.replay.stats import ReplayStats
from sidecar.amqp.replay.stream import KeyName, KeyReplay
from sidecar.amqp.replay.streams import Keys
from sidecar.amqp.spool.message import SpooledMessage, to_frames
from sidecar.amqp.wire.constants import CONTENT_TOO_LARGE, AmqpError

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import Route, Routes
    from sidecar.amqp.flow.scheduler import Hold
    from sidecar.amqp.monitor.connection import Report
    from sidecar.amqp.spool.store import Spool
    from sidecar.net.wheel import TimerWheel

#: Seconds between two looks at what no event tells of; after so many ticks messages that nobody told of are looked for.
TICK: Final = 1.0
_UNSEEN: Final = 3


class Replayer:
    """Sends what is in ``spool``. ``routes`` gives the limits of a virtual host, ``login`` what to log in with there as
    a user (empty: the sidecar's own account, or whoever may do it; ``None``: that is not known), ``connect`` makes the
    connection of a publisher (:meth:`Connector.connect`). ``clock`` is the loop's, ``wall`` Unix time.

    ``window`` is how many messages of a key may be unconfirmed, ``dead_after`` how many refusals make a message a dead
    letter (0: none do). Whoever puts messages into the spool calls :meth:`added` when they are on the disk.

    ``on_settled`` is called with messages that are done with: the broker has them (True), or they are dead letters;
    ``on_alarm`` when the broker blocks one of our connections, and when none is blocked any more.
    """

    __slots__ = (
        "_clock", "_ending", "_hold", "_keys", "_lines", "_on_admitted", "_outcomes", "_prefetch", "_quiet", "_report",
        "_rests", "_routes", "_spool", "_timer", "_turns", "_wall", "_window", "stats",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        spool: Spool,
        hold: Hold,
        routes: Callable[[str], Routes],
        login: Callable[[str, str], Login | None],
        connect: Callable[[Publisher], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        report: Report,
        window: int = 256,
        dead_after: int = 5,
    ) -> None:
        self._spool = spool
        self._hold = hold
        self._routes = routes
        self._clock = clock
        self._wall = wall
        self._report = report
        self._window = window
        self.stats = ReplayStats()
        self._on_admitted = self._admitted
        self._keys = Keys(spool, self._begin)
        self._prefetch = Prefetch(spool, self._all, self._go_on, wheel, clock)
        self._turns = Turns(clock, call_soon, self._send_next, self._prefetch.want, self._round_over)
        self._rests = Rests(wheel, clock, self._rested)
        self._outcomes = Outcomes(
            spool, self._keys.by_name, self._prefetch, self._rests, self.stats, hold.stats, clock, report, dead_after,
            self._go_on,
        )  # fmt: skip
        self._lines = Lines(
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

    @property
    def on_alarm(self) -> Callable[[bool], None] | None:
        return self._lines.on_alarm

    @on_alarm.setter
    def on_alarm(self, told: Callable[[bool], None] | None) -> None:
        self._lines.on_alarm = told

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
        self._rests.close()
        self._prefetch.close()
        self._lines.stop()
        for key in self._all():
            key.withdraw()
        self._quiet = asyncio.Event()
        await self._wait_until_quiet(seconds)
        self._ending = True
        self._lines.say_goodbye()
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
        waiting = self._lines.connected if self._ending else self.unconfirmed > 0
        if not waiting:
            self._quiet.set()

    def configure(self, window: int, dead_after: int) -> None:
        """Other settings, for what comes from now on."""
        self._window = window
        self._outcomes.dead_after = dead_after
        for key in self._all():
            key.limit(window)

    def added(self, messages: list[SpooledMessage]) -> None:
        """These are in the spool now."""
        for message in messages:
            key = self._keys.find(message.key)
            if key is not None:
                key.reading.added(message.cursor)
                key.unseen = 0
                self._prefetch.want(key)
        self._turns.wake()

    def look(self) -> None:
        """There may be messages in the spool that nobody told of."""
        self._keys.fill(True)
        for key in self._all():
            if key.reading.ended:
                self._prefetch.reread(key)
        self._turns.wake()

    def broker_is_back(self) -> None:
        """Somebody has just reached it: do not wait for the next try."""
        self._lines.try_again()

    def logins_changed(self) -> None:
        """A user's login may be known that was not, or may be good that was not."""
        self._lines.try_again(rejected=True)
        for key in self._all():
            if key.parked:
                self._prefetch.reread(key, key.parked_from)
        self._turns.wake()

    @property
    def unconfirmed(self) -> int:
        """Messages sent and not answered."""
        return sum(len(key.sent) for key in self._all())

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """The connections that cannot be made: virtual host, user, why."""
        return self._lines.problems

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _begin(self, name: KeyName) -> KeyReplay:
        """See to one more."""
        key = KeyReplay(name, self._hold, self.stats, self._on_admitted, self._window, self._clock())
        self._prefetch.want(key)
        return key

    def _all(self) -> list[KeyReplay]:
        return list(self._keys.by_name.values())

    def _go_on(self, key: KeyReplay) -> None:
        """Something about it has changed."""
        if key.gone:
            return
        self._prefetch.want(key)
        self._turns.offer(key)
        if key.idle and key.name not in self._spool.keys:
            self._keys.drop(key)
            self._keys.fill()
        if self._quiet is not None:
            self._see_whether_quiet()
        self._turns.wake()

    def _rested(self, key: KeyReplay, routing_key: str | None) -> None:
        """A pause is over."""
        if routing_key is not None:
            self._outcomes.retry(key, routing_key)
        else:
            self._go_on(key)

    def _released(self, keys: list[KeyReplay]) -> None:
        """A connection that they have waited for is there, or has come to nothing."""
        for key in keys:
            self._prefetch.want(key)
            self._turns.offer(key)
        self._turns.wake()

    def _lost(self, line: Line, left: list[object]) -> None:
        """A connection is gone."""
        for key in self._outcomes.lost(left):
            self._turns.offer(key)
        for key in self._all():
            if key.asking is not None and key.line is line:
                key.withdraw()
                self._turns.offer(key)
        self._see_whether_quiet()

    def _round_over(self) -> None:
        self._lines.flush()
        self._prefetch.feed()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send_next(self, key: KeyReplay, now: float) -> bool:
        """Do what is to be done with a key's next message. ``False``: it has to wait."""
        message = key.loaded[0]
        if key.stalled:
            self._prefetch.counts(key)
        wall = self._wall()
        if message.expires and message.expires <= wall:
            del key.loaded[0]
            self._outcomes.bury(key, message, EXPIRED, 0, "")
            return True
        line = self._lines.find(key.name[0], message.user)
        if key.asides.by_routing_key and not key.asides.passes(message):
            del key.loaded[0]
            self._prefetch.forget(key, message)
            return True
        if line is None or (message.user and (key.awaits(message.user) or (line.user and line.rejected))):
            del key.loaded[0]
            self._park(key, message)
            return True
        if key.sent and key.line is not line:
            key.crosses = True  # connections race with each other
            return False
        key.crosses = False
        key.line = line
        if not line.open:
            line.wait(key)
            self._lines.dial(line)
            return False
        route = self._route(message)
        gate = self._hold.closed(key, route, now)
        if gate is not None:
            key.ask(gate, route, message, now)
            return False
        del key.loaded[0]
        self._send(key, line, message, wall, route, now)
        return True

    def _admitted(self, key: KeyReplay, message: SpooledMessage) -> None:
        """The gates that the key's first message waited for are open."""
        self._prefetch.counts(key)
        line = key.line
        if self._turns.running and line is not None and line.open and message in key.loaded:
            key.loaded.remove(message)
            self._send(key, line, message, self._wall(), self._route(message), self._clock())
        self._go_on(key)

    def _send(self, key: KeyReplay, line: Line, message: SpooledMessage, wall: float, route: Route, now: float) -> None:
        publisher = line.publisher
        assert publisher is not None
        try:
            frames = to_frames(message, CHANNEL, publisher.frame_max, wall)
        except AmqpError as error:
            reason = TOO_LARGE if error.code == CONTENT_TOO_LARGE else REFUSED
            self._outcomes.bury(key, message, reason, error.code, error.text)
            return
        key.moved = now
        key.sent[message.id] = message
        line.idle_since = inf
        self.stats.sent += 1
        route.stats.forwarded += 1
        publisher.send(frames, message)

    def _route(self, message: SpooledMessage) -> Route:
        exchange = message.exchange.encode("utf-8", "surrogateescape")
        routing_key = message.routing_key.encode("utf-8", "surrogateescape")
        wire = bytes((len(exchange),)) + exchange + bytes((len(routing_key),)) + routing_key
        return self._routes(message.vhost).find(wire)

    def _park(self, key: KeyReplay, message: SpooledMessage) -> None:
        """Leave it in the spool until its user's login is known."""
        self._prefetch.forget(key, message)
        key.park(message)
        if key.asides.by_routing_key and key.asides.tries(message):
            self._prefetch.release(key, message.routing_key)
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
        self._lines.look()
        there = self._spool.keys
        for key in self._keys.stuck(now):
            self._prefetch.leave(key)
            self._keys.drop(key)
        self._keys.fill(True)
        for key in self._all():
            if key.parked and any(self._lines.may_log_in(key.name[0], user) for user in key.awaited()):
                self._prefetch.reread(key, key.parked_from)
            self._look_for_unseen(key, there[key.name].count if key.name in there else 0)
            self._go_on(key)

    def _look_for_unseen(self, key: KeyReplay, count: int) -> None:
        """Look for messages on the disk that nobody has told of, if they are not just on their way there."""
        if count <= key.known or key.left or key.reading.busy or key.hungry:
            key.unseen = 0
        elif key.reading.ended:
            key.unseen += 1
            if key.unseen >= _UNSEEN:
                self._prefetch.reread(key)
