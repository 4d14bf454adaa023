"""What a key's broker did not take this time, by routing key."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.replay.cursor import Cursor
    from sidecar.amqp.spool.message import SpooledMessage

#: How many messages of a key that were not taken are remembered before it stops; and how many later ones with the same
#: routing keys are passed over, if there is no other between them.
MOST_ASIDE: Final = 256
MOST_SKIPPED: Final = 500


class Aside:
    """Messages with one routing key: they are tried again later, one by one, and those of the same routing key that
    come after them wait with them. None of them is in memory but ``trying``, the one that is on its way."""

    __slots__ = ("back", "due", "trying", "waiting")

    def __init__(self) -> None:
        #: The places of those that were not taken, in order; the first is to be tried now.
        self.waiting: list[Cursor] = []
        self.due = False
        self.trying: SpooledMessage | None = None
        #: The place of the first one that was left in the spool because of these.
        self.back: Cursor | None = None


class Asides:
    """All of a key. The others go on, as they may lead elsewhere."""

    __slots__ = ("_due", "by_routing_key", "count", "skipped", "skips")

    def __init__(self) -> None:
        self.by_routing_key: dict[str, Aside] = {}
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
        """Whether something is to be done with the key's next message."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            return self.count < MOST_ASIDE
        return aside.trying is message or self.skipped < MOST_SKIPPED

    def passes(self, message: SpooledMessage) -> bool:
        """The key's next message has its turn: whether it may be sent. If not, one with the same routing key is before
        it, and it is left in the spool."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            self.skipped = 0
            return True
        if aside.trying is message:
            return True
        cursor = message.cursor
        if aside.back is None or cursor < aside.back:
            aside.back = cursor
        self.skips = True
        self.skipped += 1
        return False

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is one of them."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            return False
        trying = aside.trying
        return (trying is not None and trying.id == message.id) or message.cursor in aside.waiting

    def put(self, message: SpooledMessage) -> bool:
        """It was not taken. ``True``: nothing else will lead to another try of those with its routing key."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            aside = self.by_routing_key[message.routing_key] = Aside()
        first = aside.trying is message or not aside.waiting
        if aside.trying is message:
            aside.trying = None
        insort(aside.waiting, message.cursor)
        self.count += 1
        return first

    # -- another try ---------------------------------------------------------------------------------------------------

    def call(self, routing_key: str) -> None:
        """It is time to try the first one again."""
        aside = self.by_routing_key.get(routing_key)
        if aside is not None and aside.trying is None and aside.waiting and not aside.due:
            aside.due = True
            self._due.append(routing_key)

    @property
    def due(self) -> bool:
        """Some are to be tried now."""
        return bool(self._due)

    def called(self) -> tuple[str, Cursor] | None:
        """One of those that are :attr:`due`: its routing key and its place. It is to be fetched."""
        routing_key = self._due.pop(0)
        aside = self.by_routing_key.get(routing_key)
        if aside is None or aside.trying is not None or not aside.waiting:
            return None
        return routing_key, aside.waiting[0]

    def take(self, routing_key: str, cursor: Cursor, message: SpooledMessage | None) -> bool:
        """The one that was called is here, or is nowhere any more (``None``). ``False``: it is not tried."""
        aside = self.by_routing_key.get(routing_key)
        if aside is None or not aside.due:
            return False
        aside.due = False
        if aside.trying is not None or not aside.waiting or aside.waiting[0] != cursor:
            self.call(routing_key)  # there is one before it now
            return False
        del aside.waiting[0]
        self.count -= 1
        aside.trying = message
        if message is None:
            self.call(routing_key)
        return message is not None

    def nothing(self, routing_key: str) -> bool:
        """None of them are left, and nothing is on its way."""
        aside = self.by_routing_key.get(routing_key)
        return aside is not None and aside.trying is None and not aside.waiting

    def put_back(self, message: SpooledMessage) -> None:
        """It is not tried now, but as soon as it can be."""
        aside = self.by_routing_key[message.routing_key]
        aside.trying = None
        insort(aside.waiting, message.cursor)
        self.count += 1
        self.call(message.routing_key)

    def tries(self, message: SpooledMessage) -> bool:
        """Whether it is one that is tried again."""
        aside = self.by_routing_key.get(message.routing_key)
        return aside is not None and aside.trying is message

    def gave_up(self, routing_key: str) -> bool:
        """One that was tried again will not be any more; whether there are others behind it."""
        aside = self.by_routing_key[routing_key]
        aside.trying = None
        return bool(aside.waiting)

    def release(self, routing_key: str) -> Cursor | None:
        """They may all go: the place of the first, if there are any."""
        aside = self.by_routing_key.pop(routing_key)
        self.count -= len(aside.waiting)
        self.skipped = 0
        if not self.by_routing_key:
            self.skips = False
        first = aside.back
        if aside.waiting and (first is None or aside.waiting[0] < first):
            first = aside.waiting[0]
        return first
