"""What a key's broker did not take this time, by routing key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.spool.message import SpooledMessage

#: How many messages of a key that were not taken are kept aside before it stops; and how many later ones with the same
#: routing keys are passed over, if there is no other between them.
MOST_ASIDE: Final = 256
MOST_SKIPPED: Final = 500


class Aside:
    """Messages with one routing key: they are tried again later, one by one, and those of the same routing key that
    come after them wait with them. ``trying`` is the one that is on its way."""

    __slots__ = ("messages", "trying")

    def __init__(self) -> None:
        self.messages: list[SpooledMessage] = []
        self.trying: SpooledMessage | None = None


class Asides:
    """All of a key. The others go on, as they may lead elsewhere."""

    __slots__ = ("behind", "by_routing_key", "count", "skipped")

    def __init__(self) -> None:
        self.by_routing_key: dict[str, Aside] = {}
        #: How many they are, without those on their way.
        self.count = 0
        #: How many later ones were left in the spool because of them; and how many of those without any between them
        #: that could be sent.
        self.behind = 0
        self.skipped = 0

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
        self.behind += 1
        self.skipped += 1
        return False

    def has(self, message: SpooledMessage) -> bool:
        """Whether it is one of them, or one that is tried again."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            return False
        if aside.trying is not None and aside.trying.id == message.id:
            return True
        return any(other.id == message.id for other in aside.messages)

    def put(self, message: SpooledMessage) -> bool:
        """It was not taken. ``True``: nothing else will lead to another try of those with its routing key."""
        aside = self.by_routing_key.get(message.routing_key)
        if aside is None:
            aside = self.by_routing_key[message.routing_key] = Aside()
        first = aside.trying is message or not aside.messages
        if aside.trying is message:
            aside.trying = None
        aside.messages.append(message)
        aside.messages.sort(key=_cursor)
        self.count += 1
        return first

    def next(self, routing_key: str) -> SpooledMessage | None:
        """Take the first one out, to try it again; ``None``: there is none, or one is on its way already."""
        aside = self.by_routing_key.get(routing_key)
        if aside is None or aside.trying is not None or not aside.messages:
            return None
        aside.trying = message = aside.messages.pop(0)
        self.count -= 1
        return message

    def tries(self, message: SpooledMessage) -> bool:
        """Whether it is one that is tried again."""
        aside = self.by_routing_key.get(message.routing_key)
        return aside is not None and aside.trying is message

    def gave_up(self, message: SpooledMessage) -> bool:
        """One that was tried again will not be any more; whether there are others behind it."""
        aside = self.by_routing_key[message.routing_key]
        aside.trying = None
        return bool(aside.messages)

    def release(self, routing_key: str) -> list[SpooledMessage]:
        """They may all go."""
        aside = self.by_routing_key.pop(routing_key)
        self.count -= len(aside.messages)
        if not self.by_routing_key:
            self.skipped = 0
        return aside.messages

    def clear(self) -> list[SpooledMessage]:
        """Forget all of it; what was in it."""
        left = [message for aside in self.by_routing_key.values() for message in aside.messages]
        self.by_routing_key.clear()
        self.count = self.behind = self.skipped = 0
        return left


def _cursor(message: SpooledMessage) -> tuple[int, int]:
    return message.cursor
