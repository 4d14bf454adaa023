"""Sends what is in the spool, over connections of the sidecar's own.

What belongs together (a *key*: virtual host and lane) leaves in order: higher priority first, then what came first.
Keys take turns, a few messages each; a key whose next message has a higher priority has its turn first. Each message
passes the limits that hold for everybody, in the same lines, and leaves the spool when the broker has confirmed it.

    hungry ─ fetch ─> loaded ─ gates, window, connection ─> sent ─ ack ──> removed
                        ^                                     ├── nack, connection lost: loaded again
                        └─────────────────────────────────────┤
                                                              └── refused for good: dead letter
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.dialler import Dialler, own_properties
from sidecar.amqp.hold import Sender
from sidecar.amqp.publish import Publish
from sidecar.amqp.publishing import CHANNEL, READY, Audience, Publisher
from sidecar.amqp.spec import (
    ACCESS_REFUSED,
    COMMAND_INVALID,
    CONNECTION_FORCED,
    CONTENT_TOO_LARGE,
    FRAME_ERROR,
    NOT_ALLOWED,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    REPLY_SUCCESS,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.spool.message import SpooledMessage, to_frames
from sidecar.config.model import Retry
from sidecar.resilience.backoff import Backoff

if TYPE_CHECKING:
    from sidecar.amqp.hold import Hold
    from sidecar.amqp.link import Report
    from sidecar.amqp.policy import Route, Routes
    from sidecar.amqp.spool.store import Spool
    from sidecar.resilience.wheel import TimerWheel

#: What is in memory at once, sent or not: messages and bytes; and how little room is not worth fetching for.
AHEAD: Final = 1000
AHEAD_BYTES: Final = 4 << 20
_LITTLE: Final = 16
#: A key begins with so many unconfirmed messages at most, and may have twice as many each time some are confirmed: one
#: that gets no answers keeps little from the others.
_FIRST_WINDOW: Final = 32
#: How many messages a key sends in one turn, and how many are sent before others on this loop have theirs.
_TURN: Final = 16
_AT_ONCE: Final = 500
#: Seconds: between two looks at what no event tells of; for a connection that has nothing to do; until a login that was
#: refused is tried again.
TICK: Final = 1.0
IDLE: Final = 30.0
REFUSED_AGAIN: Final = 30.0
#: For how long an exchange may be missing before its messages are given up (seconds): after a restart of the broker
#: those that were not durable are declared again by whoever comes back.
MISSING: Final = 15.0
#: Pauses after a refusal: the first, doubled each time, and the longest (seconds); and the shortest one before the next
#: try to connect.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_SHORTEST_PAUSE: Final = 0.05
#: After so many ticks messages that nobody told of are looked for.
_UNSEEN: Final = 3
#: Connections at once, and users that a key's messages wait for whose names are remembered.
_MOST_LINES: Final = 32
_MOST_USERS: Final = 100
#: After so many seconds without an answer a key leaves its room in memory to others, if there is somebody who needs it;
#: of such keys so many messages may be in memory beside the others.
_STALL: Final = 5.0
_MOST_STALLED: Final = 4 * AHEAD
#: How many messages of a key that were not taken are kept aside before it stops; and how many later ones with the same
#: routing keys are passed over, if there is no other between them.
_MOST_ASIDE: Final = 256
_MOST_SKIPPED: Final = 500
#: How many exchanges with dead letters are reported each for itself.
_MOST_TROUBLES: Final = 100

#: Before the first message of any key.
_BEGINNING: Final = (-1000, 0)

#: Why messages become dead letters.
ACCESS: Final = "access_refused"
EXPIRED: Final = "expired"
MISSED: Final = "not_found"
NACKED: Final = "nacked"
PRECONDITION: Final = "precondition_failed"
REFUSED: Final = "refused"
TOO_LARGE: Final = "too_large"
UNROUTABLE: Final = "unroutable"

#: RabbitMQ's code of a ``basic.return``.
NO_ROUTE: Final = 312

#: Closes that the same message would lead to again.
_FOR_GOOD: Final = {
    CONTENT_TOO_LARGE: TOO_LARGE,
    ACCESS_REFUSED: ACCESS,
    NOT_FOUND: MISSED,
    PRECONDITION_FAILED: PRECONDITION,
    FRAME_ERROR: REFUSED,
    SYNTAX_ERROR: REFUSED,
    COMMAND_INVALID: REFUSED,
    UNEXPECTED_FRAME: REFUSED,
    NOT_ALLOWED: REFUSED,
    NOT_IMPLEMENTED: REFUSED,
}

KeyName = tuple[str, str]


class Login:
    """What to log in with: a SASL mechanism and its response. It never appears anywhere as text."""

    __slots__ = ("mechanism", "response")

    def __init__(self, mechanism: str, response: bytes) -> None:
        self.mechanism = mechanism
        self.response = response


class ReplayStats:
    """What became of spooled messages, so far; ``dead`` by reason. ``parked`` is now: messages that wait for the login
    of their user."""

    __slots__ = ("dead", "expired", "nacked", "parked", "replayed", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.replayed = 0
        self.nacked = 0
        self.expired = 0
        self.dead: dict[str, int] = {}
        self.parked = 0


class Line(Audience):
    """The connection for one user and virtual host, made when there is something to send."""

    __slots__ = (
        "_replayer", "failures", "idle_since", "keys", "problem", "publisher", "rejected", "retry_at", "user", "vhost",
        "wary",
    )  # fmt: skip

    def __init__(self, replayer: Replayer, vhost: str, user: str) -> None:
        self._replayer = replayer
        self.vhost = vhost
        #: Empty: the sidecar's own account.
        self.user = user
        self.publisher: Publisher | None = None
        #: How often in a row it came to nothing (-1: never tried), when to try again, and why it does not work (empty:
        #: it does).
        self.failures = -1
        self.retry_at = 0.0
        self.problem = ""
        #: The broker does not let this user in.
        self.rejected = False
        self.idle_since = inf
        #: So many messages are to be sent one by one (see :class:`Publisher`).
        self.wary = 0
        #: The keys that wait for it.
        self.keys: dict[KeyReplay, None] = {}

    @property
    def source(self) -> str:
        """As it is called in the log."""
        user = f"user {self.user[:80]!r} in " if self.user else ""
        return f"spool, {user}vhost {self.vhost[:80]!r}"

    @property
    def open(self) -> bool:
        """Messages can be given to it now."""
        publisher = self.publisher
        return publisher is not None and publisher.open

    def ready(self, publisher: Publisher) -> None:
        self.failures = 0
        self.problem = ""
        self.rejected = False
        self.wary = 0
        self._replayer.line_ready(self)

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        self._replayer.answered(tokens, taken)

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self._replayer.returned(token, code, text)

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self._replayer.refused(publisher, token, code, text)

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        self._replayer.line_blocked(self, on)

    def writable(self, publisher: Publisher) -> None:
        self._replayer.line_ready(self)

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        self._replayer.line_lost(self, publisher, left, error)


class Aside:
    """Messages of a key that the broker did not take, with one routing key: they are tried again later, one by one, and
    those of the same routing key that come after them wait with them. ``trying`` is the one that is on its way."""

    __slots__ = ("messages", "trying")

    def __init__(self) -> None:
        self.messages: list[SpooledMessage] = []
        self.trying: SpooledMessage | None = None


class KeyReplay(Sender):
    """One key. It holds no more than its first message in the gates' lines; the rest waits here, or in the spool."""

    __slots__ = (
        "after", "allowed", "aside", "aside_count", "asking", "back", "behind", "ended", "fetching", "gone", "heard",
        "hungry", "line", "loaded", "missing_since", "name", "parked", "paused", "queued", "replayer", "reserved",
        "sent", "skipped", "stalled", "unseen", "users",
    )  # fmt: skip

    def __init__(self, replayer: Replayer, name: KeyName) -> None:
        Sender.__init__(self)
        self.one_lane = True
        self.replayer = replayer
        self.name = name
        #: Fetched and not sent, in order; and sent but not answered, by id.
        self.loaded: deque[SpooledMessage] = deque()
        self.sent: dict[int, SpooledMessage] = {}
        #: The place of the last one fetched; whether there was nothing behind it; whether more is being fetched, and
        #: how much room is set aside for that; ids that were done with meanwhile.
        self.after: tuple[int, int] | None = None
        self.ended = False
        self.fetching = False
        self.reserved = 0
        self.gone: set[int] = set()
        #: Where to go back to when the fetching is over.
        self.back: tuple[int, int] | None = None
        #: When the broker last answered, or what it has not answered was begun; whether that was so long ago that the
        #: key does not count any more in what may be in memory.
        self.heard = 0.0
        self.stalled = False
        #: It is in the line of those who want to fetch; in that of those who want to send.
        self.hungry = False
        self.queued = False
        #: The connection that its first message waits for.
        self.line: Line | None = None
        #: The message that waits in the line of a gate.
        self.asking: SpooledMessage | None = None
        #: How many may be unconfirmed at present.
        self.allowed = _FIRST_WINDOW
        #: It waits after a refusal, and has a place among those that do.
        self.paused = False
        #: Since when the exchange is missing; inf: it is not.
        self.missing_since = inf
        #: Messages left where they are because their user's login is not known; these users.
        self.parked = 0
        self.users: set[str] = set()
        #: Routing key → what the broker did not take; how many these are; how many later ones were left where they are
        #: because of them, and how many of those without any between them that could be sent.
        self.aside: dict[str, Aside] = {}
        self.aside_count = 0
        self.behind = 0
        self.skipped = 0
        #: How many ticks in a row there were more in the spool than we know of.
        self.unseen = 0

    def forward(self, publish: Publish) -> None:
        message = self.asking
        self.asking = None
        if message is not None:
            self.replayer.admitted(self, message)

    def refuse(self, publish: Publish) -> None:
        """Only publishes with a tag are refused, and these have none."""

    def emptied(self) -> None:
        """Nothing waits for this."""

    def fetched(self, messages: list[SpooledMessage]) -> None:
        """The spool's answer."""
        self.replayer.fetched(self, messages)

    @property
    def ready(self) -> bool:
        """It has something that may be sent, as far as it goes by itself."""
        if self.paused or self.asking is not None or self.line is not None:
            return False
        if not self.loaded or len(self.sent) >= self.allowed:
            return False
        return not self.aside or self.may_pass(self.loaded[0])

    def may_pass(self, message: SpooledMessage) -> bool:
        """Whether something is to be done with the first message, as others were not taken."""
        aside = self.aside.get(message.routing_key)
        if aside is None:
            return self.aside_count < _MOST_ASIDE
        return aside.trying is message or self.skipped < _MOST_SKIPPED

    def stands_behind(self, message: SpooledMessage) -> bool:
        """One before it with the same routing key was not taken."""
        aside = self.aside.get(message.routing_key)
        return aside is not None and aside.trying is not message

    def awaits(self, user: str) -> bool:
        """Messages of that user may have been left, so later ones must not go before them."""
        return self.parked > 0 and (user in self.users or len(self.users) >= _MOST_USERS)

    @property
    def left(self) -> bool:
        """Messages were fetched and left in the spool; how many is not exactly known."""
        return self.parked > 0 or self.behind > 0

    @property
    def known(self) -> int:
        """Messages of it that are in memory."""
        return len(self.loaded) + len(self.sent) + self.aside_count

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is among those that were sent or not taken, or done with just now."""
        if message.id in self.sent or message.id in self.gone:
            return True
        aside = self.aside.get(message.routing_key)
        return aside is not None and any(other.id == message.id for other in aside.messages)


class Replayer:
    """Sends what is in ``spool``. ``routes`` gives the limits of a virtual host, ``login`` what to log in with there as
    a user (empty: the sidecar's own account, or whoever may do it; ``None``: that is not known), ``connect`` makes the
    connection of a publisher (:meth:`Connector.connect`). ``clock`` is the loop's, ``wall`` Unix time.

    ``window`` is how many messages of a key may be unconfirmed, ``dead_after`` how many refusals make a message a dead
    letter (0: none do). Whoever puts messages into the spool calls :meth:`added` when they are on the disk.
    """

    __slots__ = (
        "_ahead", "_ahead_bytes", "_alarmed", "_backoff", "_call_soon", "_clock", "_connect", "_dead_after", "_ending",
        "_hold", "_hungry", "_keys", "_lines", "_login", "_name", "_next_tick", "_paused", "_pumping", "_quiet",
        "_report", "_retries", "_returned", "_routes", "_running", "_spool", "_stalled", "_timer", "_troubled", "_turn",
        "_turns", "_wall", "_wheel", "_window", "on_alarm", "on_settled", "stats",
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
        self._name = name
        self._spool = spool
        self._hold = hold
        self._routes = routes
        self._login = login
        self._connect = connect
        self._wheel = wheel
        self._clock = clock
        self._wall = wall
        self._call_soon = call_soon
        self._report = report
        self._window = window
        self._dead_after = dead_after
        self._backoff = Backoff(Retry(initial_delay=0.5, max_delay=10.0), random.Random())
        self.stats = ReplayStats()
        #: Called with messages that are done with: the broker has them (True), or they are dead letters.
        self.on_settled: Callable[[list[SpooledMessage], bool], None] | None = None
        #: Called when the broker blocks one of our connections, and when none is blocked any more.
        self.on_alarm: Callable[[bool], None] | None = None
        self._alarmed: set[Line] = set()
        self._keys: dict[KeyName, KeyReplay] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self._hungry: deque[KeyReplay] = deque()
        #: Who has something to send: (−priority of the next, number of the turn, key).
        self._turns: list[tuple[int, int, KeyReplay]] = []
        self._turn = 0
        #: (until when, number, key) of those that pause after a refusal.
        self._paused: list[tuple[float, int, KeyReplay]] = []
        #: (when, number, key, routing key) of what was not taken and is to be tried again.
        self._retries: list[tuple[float, int, KeyReplay, str]] = []
        #: What is in memory, and what is being fetched.
        self._ahead = 0
        self._ahead_bytes = 0
        #: What is in memory of keys that get no answers.
        self._stalled = 0
        #: Ids of messages that came back unrouted, before they were confirmed.
        self._returned: set[int] = set()
        self._pumping = False
        self._running = False
        #: What has been reported as having dead letters.
        self._troubled: set[str] = set()
        #: Set when what :meth:`close` waits for has come; and whether that is the end of all connections.
        self._quiet: asyncio.Event | None = None
        self._ending = False
        self._timer = wheel.timer(self._on_timer)
        self._next_tick = 0.0

    # -- from outside --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with what is in the spool."""
        self._running = True
        self._next_tick = self._clock() + TICK
        self._timer.set(self._next_tick)
        self.look()

    async def close(self, seconds: float = 3.0) -> None:
        """Send nothing more; wait for confirms that are under way, for so long at most. What has none by then stays in
        the spool."""
        self._running = False
        self._timer.close()
        for key in self._keys.values():
            self._withdraw(key)
        self._quiet = asyncio.Event()
        await self._wait_until_quiet(seconds)
        self._ending = True
        for line in list(self._lines.values()):
            if line.publisher is not None:
                line.publisher.close("the sidecar is shutting down")
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
        if self._ending:
            waiting = any(line.publisher is not None for line in self._lines.values())
        else:
            waiting = self.unconfirmed > 0
        if not waiting:
            self._quiet.set()

    def configure(self, window: int, dead_after: int) -> None:
        """Other settings, for what comes from now on."""
        self._window = window
        self._dead_after = dead_after
        for key in self._keys.values():
            key.allowed = min(key.allowed, window)

    def added(self, messages: list[SpooledMessage]) -> None:
        """These are in the spool now."""
        for message in messages:
            key = self._key(message.key)
            cursor = message.cursor
            before = cursor[0], cursor[1] - 1
            urgent = False
            if key.fetching:
                if key.back is None or before < key.back:
                    key.back = before
            elif key.after is not None and before < key.after:
                key.after = before  # of higher priority than what was fetched last
                urgent = True
            key.ended = False
            key.unseen = 0
            self._want(key, urgent)
        self._wake()

    def look(self) -> None:
        """There may be keys in the spool that nobody told of."""
        for name in self._spool.keys:
            key = self._key(name)
            if key.ended:
                self._again(key)
        self._wake()

    def broker_is_back(self) -> None:
        """Somebody has just reached it: do not wait for the next try."""
        for line in self._lines.values():
            if not line.rejected:
                line.retry_at = 0.0
                self._release(line)

    def logins_changed(self) -> None:
        """A user's login may be known that was not, or may be good that was not."""
        for line in self._lines.values():
            line.rejected = False
            line.retry_at = 0.0
            self._release(line)
        for key in self._keys.values():
            if key.parked:
                self._again(key)
        self._wake()

    @property
    def unconfirmed(self) -> int:
        """Messages sent and not answered."""
        return sum(len(key.sent) for key in self._keys.values())

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """The connections that cannot be made: virtual host, user, why."""
        return [(line.vhost, line.user, line.problem) for line in self._lines.values() if line.problem]

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _key(self, name: KeyName) -> KeyReplay:
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = KeyReplay(self, name)
            key.allowed = min(_FIRST_WINDOW, self._window)
            self._want(key)
        return key

    def _want(self, key: KeyReplay, urgent: bool = False) -> None:
        """It should fetch, when it is its turn; ``urgent``: even if it has enough, because that is less important."""
        if key.hungry or key.fetching or key.ended or key.stalled or (len(key.loaded) * 2 > key.allowed and not urgent):
            return
        there = self._spool.keys.get(key.name)
        if there is not None and (there.count > key.known or key.left):
            key.hungry = True
            self._hungry.append(key)

    def _again(self, key: KeyReplay) -> None:
        """Look for its messages from the beginning."""
        self._withdraw(key)
        for message in key.loaded:
            self._forget(key, message)
        key.loaded.clear()
        for aside in key.aside.values():
            for message in aside.messages:
                self._forget(key, message)
        key.aside.clear()
        key.aside_count = key.behind = key.skipped = 0
        key.gone.clear()
        key.back = _BEGINNING if key.fetching else None
        key.after = None
        key.ended = False
        self.stats.parked -= key.parked
        key.parked = 0
        key.users.clear()
        key.unseen = 0
        self._want(key)

    def _feed(self) -> None:
        """Fetch for those who want to, as long as there is room."""
        while self._hungry:
            room = AHEAD - self._ahead
            room_bytes = AHEAD_BYTES - self._ahead_bytes
            if room < _LITTLE or room_bytes < AHEAD_BYTES // 64:
                return
            key = self._hungry.popleft()
            key.hungry = False
            if key.ended or key.stalled:
                continue
            key.fetching = True
            key.reserved = limit = min(room, key.allowed)
            self._ahead += limit
            self._spool.fetch(key.name, key.after, limit, min(room_bytes, AHEAD_BYTES // 4), key.fetched)

    def fetched(self, key: KeyReplay, messages: list[SpooledMessage]) -> None:
        """The spool has answered."""
        key.fetching = False
        self._ahead -= key.reserved
        key.reserved = 0
        key.ended = not messages and key.back is None
        if key.back == _BEGINNING:
            messages = []
        elif messages:
            key.after = messages[-1].cursor
        urgent = False
        if key.back is not None:
            if key.after is not None and key.back < key.after:
                key.after = key.back
                urgent = True
            key.back = None
        new = [message for message in messages if not key.has(message)]
        key.gone.clear()
        if new:
            self._load(key, new)
        self._offer(key)
        self._want(key, urgent)
        self._end_if_empty(key)
        self._wake()

    def _load(self, key: KeyReplay, new: list[SpooledMessage]) -> None:
        """Take fetched messages in."""
        loaded = key.loaded
        if loaded and new[0].cursor <= loaded[-1].cursor:
            there = {message.id for message in loaded}
            new = [message for message in new if message.id not in there]
            self._insert(key, new)
        else:
            loaded.extend(new)
        for message in new:
            self._ahead += 1
            self._ahead_bytes += message.size

    def _insert(self, key: KeyReplay, messages: list[SpooledMessage]) -> None:
        """Put messages where they belong among those that are to be sent."""
        key.loaded = deque(sorted([*key.loaded, *messages], key=_cursor))

    def _forget(self, key: KeyReplay, message: SpooledMessage) -> None:
        """A message is not in memory any more."""
        self._ahead -= 1
        self._ahead_bytes -= message.size
        if key.fetching:
            key.gone.add(message.id)

    def _offer(self, key: KeyReplay) -> None:
        """It has its turn, if it has something to send."""
        if key.ready and not key.queued:
            self._turn += 1
            key.queued = True
            heappush(self._turns, (-key.loaded[0].priority, self._turn, key))

    def _pause(self, key: KeyReplay, seconds: float) -> None:
        """Send nothing of it for that long."""
        self._withdraw(key)
        if not key.paused:
            key.paused = True
            self._turn += 1
            until = self._clock() + seconds
            heappush(self._paused, (until, self._turn, key))
            self._wake_at(until)

    def _end_if_empty(self, key: KeyReplay) -> None:
        """Forget a key with nothing in the spool."""
        if key.loaded or key.sent or key.fetching or key.hungry or key.queued or key.paused:
            return
        if key.aside:
            return
        if key.name not in self._spool.keys and self._keys.pop(key.name, None) is not None:
            self.stats.parked -= key.parked
            key.parked = 0

    def _stall(self, key: KeyReplay) -> None:
        """The broker does not answer what was sent of it (a quorum queue without its majority, for one). Others are not
        to wait for that with it: it leaves them its room."""
        if key.fetching or key.aside or self._stalled + len(key.sent) > _MOST_STALLED:
            return
        self._withdraw(key)
        if key.loaded:
            first = key.loaded[0].cursor
            key.after = first[0], first[1] - 1
            key.ended = False
            for message in key.loaded:
                self._forget(key, message)
            key.loaded.clear()
        key.stalled = True
        self._stalled += len(key.sent)
        for message in key.sent.values():
            self._forget(key, message)

    def _count_again(self, key: KeyReplay) -> None:
        key.stalled = False
        self._stalled -= len(key.sent)
        for message in key.sent.values():
            self._ahead += 1
            self._ahead_bytes += message.size

    def _withdraw(self, key: KeyReplay) -> None:
        """Leave the line of the gate."""
        if key.asking is not None:
            key.asking = None
            self._hold.forget(key)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """See to everything, once in this turn of the loop."""
        if not self._pumping and self._running:
            self._pumping = True
            self._call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self._running:
            return
        now = self._clock()
        turns = self._turns
        left = _AT_ONCE
        while turns and left > 0:
            entry = heappop(turns)
            key = entry[2]
            key.queued = False
            rank = entry[0]
            count = 0
            while key.ready and count < _TURN and -key.loaded[0].priority == rank and self._send_next(key, now):
                count += 1
            left -= count + 1
            self._offer(key)
            self._want(key)
        for line in self._lines.values():
            publisher = line.publisher
            if publisher is not None:
                publisher.flush()
        self._feed()
        if turns:
            self._wake()

    def _send_next(self, key: KeyReplay, now: float) -> bool:
        """Do what is to be done with a key's next message. ``False``: it has to wait."""
        message = key.loaded[0]
        wall = self._wall()
        if message.expires and message.expires <= wall:
            key.loaded.popleft()
            self._bury(key, message, EXPIRED, 0, "they have expired")
            return True
        line = self._line(key.name[0], message.user)
        if key.aside and key.stands_behind(message):
            key.loaded.popleft()
            self._forget(key, message)
            key.behind += 1
            key.skipped += 1
            return True
        if message.routing_key not in key.aside:
            key.skipped = 0
        if line is None or (message.user and (line.rejected or key.awaits(message.user))):
            key.loaded.popleft()
            self._park(key, message)
            return True
        if not line.open:
            line.keys[key] = None
            key.line = line
            self._dial(line, now)
            return False
        route = self._route(message)
        gate = self._hold.closed(key, route, now)
        if gate is not None:
            key.asking = message
            self._hold.keep(Publish(key, route, 0, b"", message.priority, now), gate, now)
            return False
        key.loaded.popleft()
        self._send(key, line, message, wall, route)
        return True

    def admitted(self, key: KeyReplay, message: SpooledMessage) -> None:
        """The gates that the key's first message waited for are open."""
        loaded = key.loaded
        line = self._line(key.name[0], message.user)
        if self._running and line is not None and line.open and message in loaded:
            if loaded[0] is message:
                loaded.popleft()
            else:
                loaded.remove(message)
            self._send(key, line, message, self._wall(), self._route(message))
        self._offer(key)
        self._want(key)
        self._wake()

    def _send(self, key: KeyReplay, line: Line, message: SpooledMessage, wall: float, route: Route) -> None:
        publisher = line.publisher
        assert publisher is not None
        try:
            frames = to_frames(message, CHANNEL, publisher.frame_max, wall)
        except AmqpError as error:
            self._bury(key, message, TOO_LARGE if error.code == CONTENT_TOO_LARGE else REFUSED, error.code, error.text)
            return
        if not key.sent:
            key.heard = self._clock()
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
        self._forget(key, message)
        key.parked += 1
        self.stats.parked += 1
        if len(key.users) < _MOST_USERS:
            key.users.add(message.user)
        self._report.bad(
            f"spool, user {message.user[:80]}",
            "login",
            "messages with this user-id wait until that user has logged in through this sidecar",
        )

    # -- what becomes of it --------------------------------------------------------------------------------------------

    def answered(self, tokens: list[object], taken: bool) -> None:
        """The broker's answers."""
        done: list[SpooledMessage] = []
        keys: dict[KeyReplay, None] = {}
        exchanges = self._hold.stats
        for token in tokens:
            assert isinstance(token, SpooledMessage)
            message = token
            key = self._take(message)
            if key is None:
                continue
            keys[key] = None
            stats = exchanges.exchange(message.vhost, message.exchange)
            if not taken:
                stats.nacked += 1
                self.stats.nacked += 1
                self._failed(key, message, 0, "the broker does not take it")
                continue
            stats.confirmed += 1
            if self._returned and message.id in self._returned:
                self._returned.discard(message.id)
                self._bury(key, message, UNROUTABLE, NO_ROUTE, "no queue takes them")
            else:
                self._forget(key, message)
                done.append(message)
                if key.aside:
                    self._probed(key, message, True)
                if self._troubled:
                    self._works(message)
        if done:
            self.stats.replayed += len(done)
            self._spool.remove(done)
            if self.on_settled is not None:
                self.on_settled(done, True)
        for key in keys:
            if taken and not key.paused:
                key.missing_since = inf
                key.allowed = max(1, min(key.allowed * 2, self._window))
            self._go_on(key)
        self._wake()

    def returned(self, token: object, code: int, text: str) -> None:
        """A message found no queue; its confirm follows."""
        assert isinstance(token, SpooledMessage)
        self._returned.add(token.id)

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """The broker closed a channel or a connection because of a message."""
        assert isinstance(token, SpooledMessage)
        key = self._take(token)
        if key is None:
            return
        now = self._clock()
        if code == NOT_FOUND and now - min(key.missing_since, now) < MISSING:
            key.missing_since = min(key.missing_since, now)
            again = [token]
            for other in publisher.recall(token.exchange.encode("utf-8", "surrogateescape")):
                assert isinstance(other, SpooledMessage)
                if self._take(other) is not None:
                    again.append(other)
            self._insert(key, again)
            key.allowed = 1
            self._pause(key, TICK)
        elif code in _FOR_GOOD:
            reason = _FOR_GOOD[code]
            if code == PRECONDITION_FAILED and " larger than " in text:
                reason = TOO_LARGE
            self._bury(key, token, reason, code, text)
        else:
            self._failed(key, token, code, text)
        self._go_on(key)
        self._wake()

    def _take(self, message: SpooledMessage) -> KeyReplay | None:
        """Something is known of a message that was sent: its key."""
        key = self._keys.get(message.key)
        if key is None or message.id not in key.sent:
            return None
        if key.stalled:
            self._count_again(key)
        key.heard = self._clock()
        del key.sent[message.id]
        self._see_whether_quiet()
        return key

    def _go_on(self, key: KeyReplay) -> None:
        self._offer(key)
        self._want(key)
        self._end_if_empty(key)

    def _failed(self, key: KeyReplay, message: SpooledMessage, code: int, text: str) -> None:
        """The broker did not take it this time. The messages with the same routing key wait with it, because they are
        to stay in order; others go on, as they may lead elsewhere."""
        self._spool.tried([message])
        if 0 < self._dead_after <= message.attempts:
            self._bury(key, message, NACKED, code, text)
            return
        aside = key.aside.get(message.routing_key)
        if aside is None:
            aside = key.aside[message.routing_key] = Aside()
        first = aside.trying is message or not aside.messages
        if aside.trying is message:
            aside.trying = None
        aside.messages.append(message)
        aside.messages.sort(key=_cursor)
        key.aside_count += 1
        if first:
            self._retry_in(
                key, message.routing_key, min(_FIRST_PAUSE * (1 << min(message.attempts - 1, 16)), _LONGEST_PAUSE)
            )

    def _retry_in(self, key: KeyReplay, routing_key: str, seconds: float) -> None:
        until = self._clock() + seconds
        self._turn += 1
        heappush(self._retries, (until, self._turn, key, routing_key))
        self._wake_at(until)

    def _retry(self, key: KeyReplay, routing_key: str) -> None:
        """Try the first of those that were not taken again."""
        aside = key.aside.get(routing_key)
        if aside is not None and aside.trying is None and aside.messages:
            aside.trying = message = aside.messages.pop(0)
            key.aside_count -= 1
            key.loaded.appendleft(message)
            self._go_on(key)

    def _probed(self, key: KeyReplay, message: SpooledMessage, taken: bool, pause: float = 0.0) -> None:
        """What has become of a message that was tried again is a sign for those behind it: they may all go, or the next
        one is tried after a ``pause``."""
        aside = key.aside.get(message.routing_key)
        if aside is None or aside.trying is not message:
            return
        aside.trying = None
        if aside.messages and not taken:
            self._retry_in(key, message.routing_key, pause)
            return
        del key.aside[message.routing_key]
        key.aside_count -= len(aside.messages)
        self._insert(key, aside.messages)
        if key.behind:
            self._again(key)

    def _bury(self, key: KeyReplay, message: SpooledMessage, reason: str, code: int, text: str) -> None:
        """It becomes a dead letter."""
        self._forget(key, message)
        if key.aside:
            self._probed(key, message, False, _FIRST_PAUSE if reason == NACKED else 0.0)
        self._spool.dead(message, reason, code)
        dead = self.stats.dead
        dead[reason] = dead.get(reason, 0) + 1
        if reason == EXPIRED:
            self.stats.expired += 1
        source = _source(message)
        if source not in self._troubled and len(self._troubled) < _MOST_TROUBLES:
            self._troubled.add(source)
        if source in self._troubled:
            self._report.bad(source, reason, f"messages become dead letters ({reason}): {text[:200]}")
        if self.on_settled is not None:
            self.on_settled([message], False)

    def _works(self, message: SpooledMessage) -> None:
        source = _source(message)
        if source in self._troubled:
            self._troubled.discard(source)
            self._report.good(source)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _line(self, vhost: str, user: str) -> Line | None:
        """The connection for a user; ``None``: its login is not known, or there are too many connections."""
        line = self._lines.get((vhost, user))
        if line is None:
            if user and (self._login(vhost, user) is None or len(self._lines) >= _MOST_LINES):
                return None
            line = self._lines[vhost, user] = Line(self, vhost, user)
        return line

    def _dial(self, line: Line, now: float) -> None:
        """Make its connection, if there is none and it is time."""
        if line.publisher is not None:
            return
        if now < line.retry_at:
            self._wake_at(line.retry_at)
            return
        login = self._login(line.vhost, line.user)
        if login is None:
            self._no_connection(line, "there is no account to publish with", REFUSED_AGAIN, now)
            return
        properties = own_properties(f"sidecar {self._name}: spool")
        dialler = Dialler(login.mechanism, login.response, line.vhost, properties)
        line.publisher = Publisher(dialler, line, self._wheel, self._clock, self._call_soon, wary=line.wary)
        line.idle_since = inf
        self._connect(line.publisher)

    def _no_connection(self, line: Line, problem: str, seconds: float, now: float) -> None:
        line.problem = problem
        line.retry_at = now + seconds
        self._report.bad(line.source, problem, f"what is in the spool waits: {problem}")
        if line.keys:
            self._wake_at(line.retry_at)

    def line_ready(self, line: Line) -> None:
        """Messages can be given to it."""
        self._report.good(line.source)
        self._release(line)

    def _release(self, line: Line) -> None:
        """Who waits for it may see whether it can go on."""
        keys, line.keys = line.keys, {}
        for key in keys:
            key.line = None
            self._offer(key)
        self._wake()

    def line_blocked(self, line: Line, on: bool) -> None:
        """The broker has an alarm, or none any more."""
        before = bool(self._alarmed)
        if on:
            self._alarmed.add(line)
        else:
            self._alarmed.discard(line)
        if before != bool(self._alarmed) and self.on_alarm is not None:
            self.on_alarm(not before)
        if not on:
            self.line_ready(line)

    def line_lost(self, line: Line, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        """Its connection is gone. What has no answer is sent again, in its old place."""
        now = self._clock()
        line.publisher = None
        line.wary = publisher.suspects
        self._see_whether_quiet()
        if line in self._alarmed:
            self._alarmed.discard(line)
            if not self._alarmed and self.on_alarm is not None:
                self.on_alarm(False)
        again: dict[KeyReplay, list[SpooledMessage]] = {}
        for token in left:
            assert isinstance(token, SpooledMessage)
            key = self._take(token)
            if key is not None:
                self._returned.discard(token.id)
                again.setdefault(key, []).append(token)
        for key, messages in again.items():
            self._insert(key, messages)
        for key in self._keys.values():
            asking = key.asking
            if asking is not None and (key.name[0], asking.user) == (line.vhost, line.user):
                self._withdraw(key)
                again.setdefault(key, [])
        if error.code != REPLY_SUCCESS or left:
            worked = line.failures == 0 and not line.problem
            line.failures = max(line.failures, 0) + 1
            line.rejected = publisher.permanent
            pause = REFUSED_AGAIN if line.rejected else max(_SHORTEST_PAUSE, self._backoff.delay(line.failures))
            if worked and error.code != CONNECTION_FORCED:
                line.retry_at = now + pause  # because of a message, not of the broker
            else:
                where = f" ({publisher.endpoint})" if publisher.endpoint else ""
                self._no_connection(line, f"{error.text}{where}", pause, now)
        for key in again:
            self._offer(key)
        self._release(line)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _wake_at(self, when: float) -> None:
        if when < self._timer.deadline and self._running:
            self._timer.set(when)

    def _on_timer(self) -> None:
        now = self._clock()
        paused = self._paused
        while paused and paused[0][0] <= now:
            key = heappop(paused)[2]
            key.paused = False
            self._go_on(key)
        retries = self._retries
        while retries and retries[0][0] <= now:
            entry = heappop(retries)
            self._retry(entry[2], entry[3])
        for line in list(self._lines.values()):
            self._look_after(line, now)
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick()
        self._timer.set(self._next_tick)
        if paused:
            self._wake_at(paused[0][0])
        if retries:
            self._wake_at(retries[0][0])
        self._wake()

    def _look_after(self, line: Line, now: float) -> None:
        publisher = line.publisher
        if publisher is None:
            if now >= line.retry_at:
                line.rejected = False
                if line.keys:
                    self._dial(line, now)
                else:
                    del self._lines[line.vhost, line.user]
                    self._report.gone(line.source)
        elif publisher.unanswered or publisher.stage != READY or line.keys:
            line.idle_since = inf
        elif line.idle_since == inf:
            line.idle_since = now
        elif now - line.idle_since >= IDLE:
            publisher.close()

    def _tick(self) -> None:
        """What no event tells of."""
        there = self._spool.keys
        for name in there:
            if name not in self._keys:
                self._key(name)
        now = self._clock()
        for key in list(self._keys.values()):
            if key.sent and not key.stalled and self._hungry and now - key.heard >= _STALL:
                self._stall(key)
            if key.parked and self._may_log_in(key):
                self._again(key)
            count = there[key.name].count if key.name in there else 0
            if count <= key.known or key.left or key.fetching or key.hungry:
                key.unseen = 0
            elif key.ended:
                # On their way to the disk; or somebody has forgotten to tell.
                key.unseen += 1
                if key.unseen >= _UNSEEN:
                    self._again(key)
            self._go_on(key)

    def _may_log_in(self, key: KeyReplay) -> bool:
        """Whether one of the users that messages of the key wait for can be tried (again)."""
        for user in key.users:
            line = self._lines.get((key.name[0], user))
            if (line is None or not line.rejected) and self._login(key.name[0], user) is not None:
                return True
        return False


def _cursor(message: SpooledMessage) -> tuple[int, int]:
    return message.cursor


def _source(message: SpooledMessage) -> str:
    return f"spool, exchange {message.exchange[:80]!r} of vhost {message.vhost[:80]!r}"
