"""One key: what belongs together, virtual host and lane, and leaves in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.hold import Sender
from sidecar.amqp.publish import Publish
from sidecar.amqp.replay.asides import Asides
from sidecar.amqp.replay.reading import Reading

if TYPE_CHECKING:
    from sidecar.amqp.gates import Gate
    from sidecar.amqp.hold import Hold
    from sidecar.amqp.policy import Route
    from sidecar.amqp.replay.stats import ReplayStats
    from sidecar.amqp.spool.message import SpooledMessage

KeyName = tuple[str, str]

#: A key begins with so many unconfirmed messages at most, and may have twice as many each time some are confirmed: one
#: that gets no answers keeps little from the others.
FIRST_WINDOW: Final = 32
#: Users that a key's messages wait for whose names are remembered.
_MOST_USERS: Final = 100


class KeyReplay(Sender):
    """What is known of one key. It holds no more than its first message in the gates' lines; the rest waits here, or in
    the spool. ``admitted`` is called with a message whose gates are open; ``window`` is how many may be unconfirmed."""

    __slots__ = (
        "_admitted", "_asking", "_hold", "_stats", "_users", "allowed", "asides", "heard", "hungry", "loaded",
        "missing_since", "name", "parked", "paused", "queued", "reading", "sent", "stalled", "unseen", "waiting",
        "window_size",
    )  # fmt: skip

    def __init__(
        self,
        name: KeyName,
        hold: Hold,
        stats: ReplayStats,
        admitted: Callable[[KeyReplay, SpooledMessage], None],
        window: int,
    ) -> None:
        Sender.__init__(self)
        self.one_lane = True
        self.name = name
        self._hold = hold
        self._stats = stats
        self._admitted = admitted
        self.reading = Reading()
        #: Fetched and not sent, in order; sent but not answered, by id; and what was not taken.
        self.loaded: deque[SpooledMessage] = deque()
        self.sent: dict[int, SpooledMessage] = {}
        self.asides = Asides()
        #: How many may be unconfirmed, at present and at all.
        self.allowed = min(FIRST_WINDOW, window)
        self.window_size = window
        #: When the broker last answered, or what it has not answered was begun; whether that was so long ago that the
        #: key does not count any more in what may be in memory.
        self.heard = 0.0
        self.stalled = False
        #: It is in the line of those who want to fetch; in that of those who want to send; among those who wait for a
        #: connection; and among those who pause after a refusal.
        self.hungry = False
        self.queued = False
        self.waiting = False
        self.paused = False
        #: The message that waits in the line of a gate.
        self._asking: SpooledMessage | None = None
        #: Since when the exchange is missing; inf: it is not.
        self.missing_since = inf
        #: Messages left where they are because their user's login is not known; these users.
        self.parked = 0
        self._users: set[str] = set()
        #: How many ticks in a row there were more in the spool than we know of.
        self.unseen = 0

    # -- the gates -----------------------------------------------------------------------------------------------------

    def ask(self, gate: Gate, route: Route, message: SpooledMessage, now: float) -> None:
        """Stand in line before a gate, for the first message."""
        self._asking = message
        self._hold.keep(Publish(self, route, 0, b"", message.priority, now), gate, now)

    def asks_as(self, user: str) -> bool:
        """It stands in line, for a message of that user."""
        return self._asking is not None and self._asking.user == user

    def withdraw(self) -> None:
        """Leave the line of the gate."""
        if self._asking is not None:
            self._asking = None
            self._hold.forget(self)

    def forward(self, publish: Publish) -> None:
        message = self._asking
        self._asking = None
        if message is not None:
            self._admitted(self, message)

    def refuse(self, publish: Publish) -> None:
        """Only publishes with a tag are refused, and these have none."""

    def emptied(self) -> None:
        """Nothing waits for this."""

    # -- what it has ---------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """It has something that may be sent, as far as it goes by itself."""
        if self.paused or self._asking is not None or self.waiting:
            return False
        if not self.loaded or len(self.sent) >= self.allowed:
            return False
        asides = self.asides
        return not asides.by_routing_key or asides.may_pass(self.loaded[0])

    @property
    def left(self) -> bool:
        """Messages were fetched and left in the spool; how many is not exactly known."""
        return self.parked > 0 or self.asides.behind > 0

    @property
    def known(self) -> int:
        """Messages of it that are in memory."""
        return len(self.loaded) + len(self.sent) + self.asides.count

    @property
    def idle(self) -> bool:
        """Nothing of it is anywhere, and nothing is under way."""
        if self.loaded or self.sent or self.reading.busy or self.hungry or self.queued or self.paused:
            return False
        return not self.asides.by_routing_key

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is among those that were sent or not taken, or done with just now."""
        return message.id in self.sent or message.id in self.reading.gone or self.asides.has(message)

    def insert(self, messages: list[SpooledMessage]) -> None:
        """Put messages where they belong among those that are to be sent."""
        self.loaded = deque(sorted([*self.loaded, *messages], key=_cursor))

    def take_in(self, messages: list[SpooledMessage]) -> list[SpooledMessage]:
        """Those of the fetched ones that are new; they are to be sent."""
        new = [message for message in messages if not self.has(message)]
        self.reading.gone.clear()
        loaded = self.loaded
        if new and loaded and new[0].cursor <= loaded[-1].cursor:
            there = {message.id for message in loaded}
            new = [message for message in new if message.id not in there]
            self.insert(new)
        else:
            loaded.extend(new)
        return new

    # -- its window ----------------------------------------------------------------------------------------------------

    def limit(self, window: int) -> None:
        """No more than so many may be unconfirmed, from now on."""
        self.window_size = window
        self.allowed = min(self.allowed, window)

    def widen(self) -> None:
        """It gets answers: it may have more unconfirmed."""
        self.allowed = max(1, min(self.allowed * 2, self.window_size))

    # -- users whose login is not known --------------------------------------------------------------------------------

    def park(self, user: str) -> None:
        """A message is left in the spool, because it can only go as that user."""
        self.parked += 1
        self._stats.parked += 1
        if len(self._users) < _MOST_USERS:
            self._users.add(user)

    def unpark(self) -> None:
        """Nothing is left for that reason."""
        self._stats.parked -= self.parked
        self.parked = 0
        self._users.clear()

    def awaits(self, user: str) -> bool:
        """Messages of that user may have been left, so later ones must not go before them."""
        return self.parked > 0 and (user in self._users or len(self._users) >= _MOST_USERS)

    def awaited(self) -> list[str]:
        """The users."""
        return list(self._users)


def _cursor(message: SpooledMessage) -> tuple[int, int]:
    return message.cursor
