"""One stream: what belongs together, virtual host and lane, and leaves in order."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.replay.cursor import BEGINNING, Cursor
from sidecar.amqp.replay.deferred import Deferred

if TYPE_CHECKING:
    from sidecar.amqp.flow.gates import Gate
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.flow.scheduler import Scheduler
    from sidecar.amqp.replay.cursor import Position
    from sidecar.amqp.replay.publisher_slot import PublisherSlot
    from sidecar.amqp.replay.stats import ReplayStats
    from sidecar.amqp.spool.message import SpooledMessage

StreamName = tuple[str, str]

#: A stream begins with so many unconfirmed messages at most, and may have twice as many each time some are confirmed:
#: one that gets no answers takes little from the others.
FIRST_WINDOW: Final = 32
#: Users that a stream's messages wait for whose names are remembered.
_MOST_USERS: Final = 100


class Stream(Sender):
    """What is known of one stream. It holds no more than its first message in the gates' lines; the rest waits here, or
    in the spool. ``admitted`` is called with a message whose gates are open; ``window`` is how many may be unconfirmed.

    There may be thousands of them, so what is empty should be small."""

    __slots__ = (
        "_admitted",
        "_scheduler",
        "_stats",
        "_users",
        "allowed",
        "asking",
        "crosses",
        "cursor",
        "deferred",
        "gone",
        "hungry",
        "loaded",
        "missing_since",
        "moved",
        "name",
        "parked",
        "parked_from",
        "parked_to",
        "paused",
        "queued",
        "sent",
        "slot",
        "stalled",
        "stuck",
        "unseen",
        "waiting",
        "window_size",
        "worked",
    )  # fmt: skip

    def __init__(
        self,
        name: StreamName,
        scheduler: Scheduler,
        stats: ReplayStats,
        admitted: Callable[[Stream, SpooledMessage], None],
        window: int,
        now: float,
    ) -> None:
        Sender.__init__(self)
        self.one_lane = True
        self.name = name
        self._scheduler = scheduler
        self._stats = stats
        self._admitted = admitted
        self.cursor = Cursor()
        #: Fetched and not sent, in order; sent but not answered, by id, and over which connection; what was not taken.
        self.loaded: list[SpooledMessage] = []
        self.sent: dict[int, SpooledMessage] = {}
        self.slot: PublisherSlot | None = None
        self.deferred = Deferred()
        #: How many may be unconfirmed, at present and at all.
        self.allowed = min(FIRST_WINDOW, window)
        self.window_size = window
        #: When something of it was last sent, answered or fetched; and when something last came to its end.
        self.moved = now
        self.worked = now
        #: It has left its room in memory to others until it can move again; and so has what it has sent, which does not
        #: count any more in what may be there.
        self.stuck = False
        self.stalled = False
        #: It is in the line of those who want to fetch; in that of those who want to send; among those who wait for a
        #: connection; and among those who pause after a refusal.
        self.hungry = False
        self.queued = False
        self.waiting = False
        self.paused = False
        #: Its next message goes over another connection than those that have no answer yet, so it waits for these.
        self.crosses = False
        #: Nobody sees to it any more.
        self.gone = False
        #: The message that waits in the line of a gate.
        self.asking: SpooledMessage | None = None
        #: Since when the exchange is missing; inf: it is not.
        self.missing_since = inf
        #: Messages left where they are because their user's login is not known: how many, the places of the first and
        #: the last, these users.
        self.parked = 0
        self.parked_from: Position = BEGINNING
        self.parked_to: Position = BEGINNING
        self._users: dict[str, None] = {}
        #: How many ticks in a row there were more in the spool than we know of.
        self.unseen = 0

    # -- the gates -----------------------------------------------------------------------------------------------------

    def ask(self, gate: Gate, route: PublishRoute, message: SpooledMessage, now: float) -> None:
        """Stand in line before a gate, for the first message."""
        self.asking = message
        self._scheduler.enqueue(Publish(self, route, 0, b"", message.priority, now), gate, now)

    def withdraw(self) -> None:
        """Leave the line of the gate."""
        if self.asking is not None:
            self.asking = None
            self._scheduler.forget(self)

    def forward(self, publish: Publish) -> None:
        message = self.asking
        self.asking = None
        if message is not None:
            self._admitted(self, message)

    def refuse(self, publish: Publish) -> None:
        """Only publishes with a tag are refused, and these have none."""

    def emptied(self) -> None:
        """Nothing waits for this."""

    # -- what it has ---------------------------------------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """It may send something, as far as it goes by itself, if it has something that may pass."""
        if self.paused or self.asking is not None or self.waiting or self.gone:
            return False
        return len(self.sent) < self.allowed and not (self.crosses and self.sent)

    @property
    def ready(self) -> bool:
        """It has something that may be sent."""
        if not self.loaded or not self.free:
            return False
        deferred = self.deferred
        return not deferred.by_routing_key or deferred.may_pass(self.loaded[0])

    @property
    def left(self) -> bool:
        """Messages were fetched and left in the spool; how many is not exactly known."""
        return self.parked > 0 or self.deferred.skips

    @property
    def known(self) -> int:
        """Messages of it that we know of."""
        return len(self.loaded) + len(self.sent) + self.deferred.count

    @property
    def quiet(self) -> bool:
        """Nothing is under way."""
        return not (self.sent or self.cursor.busy or self.hungry or self.queued or self.paused)

    @property
    def idle(self) -> bool:
        """Nothing of it is anywhere, either."""
        return self.quiet and not self.loaded and not self.deferred.by_routing_key

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is among those that were sent or not taken, or done with just now."""
        return message.id in self.sent or message.id in self.cursor.gone or self.deferred.has(message)

    def insert(self, messages: list[SpooledMessage]) -> None:
        """Put messages where they belong among those that are to be sent."""
        self.loaded = sorted([*self.loaded, *messages], key=_position)

    def take_in(self, messages: list[SpooledMessage]) -> list[SpooledMessage]:
        """Those of the fetched ones that are new; they are to be sent."""
        new = [message for message in messages if not self.has(message)]
        self.cursor.gone.clear()
        loaded = self.loaded
        if new and loaded and new[0].position <= loaded[-1].position:
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

    def park(self, message: SpooledMessage) -> None:
        """It is left in the spool, because it can only go as its user."""
        position = message.position
        if not self.parked:
            self.parked_from = self.parked_to = position
        self.parked_from = min(self.parked_from, position)
        self.parked_to = max(self.parked_to, position)
        self.parked += 1
        self._stats.parked += 1
        if len(self._users) < _MOST_USERS:
            self._users[message.user] = None

    def unpark(self) -> None:
        """None is left for that reason any more."""
        self._stats.parked -= self.parked
        self.parked = 0
        self._users.clear()

    def awaits(self, user: str) -> bool:
        """Messages of that user may have been left, so later ones must not go before them."""
        return self.parked > 0 and (user in self._users or len(self._users) >= _MOST_USERS)

    def awaited(self) -> list[str]:
        """The users."""
        return list(self._users)


def _position(message: SpooledMessage) -> tuple[int, int]:
    return message.position
