"""What a stream's broker did not take this time, by routing key."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.replay.cursor import Position
    from sidecar.amqp.spool.message import SpooledMessage

#: How many messages of a stream that were not taken are remembered before it stops; and how many later ones with the
#: same routing keys are passed over, if there is no other between them.
MOST_ASIDE: Final = 256
MOST_SKIPPED: Final = 500


class DeferredGroup:
    """Messages with one routing key: they are tried again later, one by one, and those of the same routing key that
    come after them wait with them. None of them is in memory but ``trying``, the one that is on its way."""

    __slots__ = ("back", "due", "trying", "waiting")

    def __init__(self) -> None:
        #: The places of those that were not taken, in order; the first is to be tried now.
        self.waiting: list[Position] = []
        self.due = False
        self.trying: SpooledMessage | None = None
        #: The place of the first one that was left in the spool because of these.
        self.back: Position | None = None


class Deferred:
    """All messages of a stream that the broker did not take this time. The others go on, as they may lead elsewhere."""

    __slots__ = ("_due", "by_routing_key", "count", "skipped", "skips")

    def __init__(self) -> None:
        self.by_routing_key: dict[str, DeferredGroup] = {}
        #: How many they are, without those on their way.
        self.count = 0
        #: Later ones were left in the spool because of them; how many of those without any between them that could be
        #: sent.
        self.skips = False
        self.skipped = 0
        #: The routing keys whose first one is to be tried.
        self._due: list[str] = []

    @property
    def full(self) -> bool:
        """Nothing is to be read beyond them."""
        return self.count >= MOST_ASIDE or self.skipped >= MOST_SKIPPED

    def may_pass(self, message: SpooledMessage) -> bool:
        """Whether something is to be done with the stream's next message."""
        group = self.by_routing_key.get(message.routing_key)
        if group is None:
            return self.count < MOST_ASIDE
        return group.trying is message or self.skipped < MOST_SKIPPED

    def passes(self, message: SpooledMessage) -> bool:
        """The stream's next message has its turn: whether it may be sent. If not, one with the same routing key is
        before it, and it is left in the spool."""
        group = self.by_routing_key.get(message.routing_key)
        if group is None:
            self.skipped = 0
            return True
        if group.trying is message:
            return True
        position = message.position
        if group.back is None or position < group.back:
            group.back = position
        self.skips = True
        self.skipped += 1
        return False

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is one of them."""
        group = self.by_routing_key.get(message.routing_key)
        if group is None:
            return False
        trying = group.trying
        return (trying is not None and trying.id == message.id) or message.position in group.waiting

    def put(self, message: SpooledMessage) -> bool:
        """It was not taken. ``True``: nothing else will lead to another try of those with its routing key."""
        group = self.by_routing_key.get(message.routing_key)
        if group is None:
            group = self.by_routing_key[message.routing_key] = DeferredGroup()
        first = group.trying is message or not group.waiting
        if group.trying is message:
            group.trying = None
        insort(group.waiting, message.position)
        self.count += 1
        return first

    # -- another try ---------------------------------------------------------------------------------------------------

    def call(self, routing_key: str) -> None:
        """It is time to try the first one again."""
        group = self.by_routing_key.get(routing_key)
        if group is not None and group.trying is None and group.waiting and not group.due:
            group.due = True
            self._due.append(routing_key)

    @property
    def due(self) -> bool:
        """Some are to be tried now."""
        return bool(self._due)

    def called(self) -> tuple[str, Position] | None:
        """One of those that are :attr:`due`: its routing key and its place. It is to be fetched."""
        routing_key = self._due.pop(0)
        group = self.by_routing_key.get(routing_key)
        if group is None or group.trying is not None or not group.waiting:
            return None
        return routing_key, group.waiting[0]

    def take(self, routing_key: str, position: Position, message: SpooledMessage | None) -> bool:
        """The one that was called is here, or is nowhere any more (``None``). ``False``: it is not tried."""
        group = self.by_routing_key.get(routing_key)
        if group is None or not group.due:
            return False
        group.due = False
        if group.trying is not None or not group.waiting or group.waiting[0] != position:
            self.call(routing_key)  # there is one before it now
            return False
        del group.waiting[0]
        self.count -= 1
        group.trying = message
        if message is None:
            self.call(routing_key)
        return message is not None

    def nothing(self, routing_key: str) -> bool:
        """None of them are left, and nothing is on its way."""
        group = self.by_routing_key.get(routing_key)
        return group is not None and group.trying is None and not group.waiting

    def put_back(self, message: SpooledMessage) -> None:
        """It is not tried now, but as soon as it can be."""
        group = self.by_routing_key[message.routing_key]
        group.trying = None
        insort(group.waiting, message.position)
        self.count += 1
        self.call(message.routing_key)

    def tries(self, message: SpooledMessage) -> bool:
        """Whether it is one that is tried again."""
        group = self.by_routing_key.get(message.routing_key)
        return group is not None and group.trying is message

    def gave_up(self, routing_key: str) -> bool:
        """One that was tried again will not be any more; whether there are others behind it."""
        group = self.by_routing_key[routing_key]
        group.trying = None
        return bool(group.waiting)

    def release(self, routing_key: str) -> Position | None:
        """They may all go: the place of the first, if there are any."""
        group = self.by_routing_key.pop(routing_key)
        self.count -= len(group.waiting)
        self.skipped = 0
        if not self.by_routing_key:
            self.skips = False
        first = group.back
        if group.waiting and (first is None or group.waiting[0] < first):
            first = group.waiting[0]
        return first
