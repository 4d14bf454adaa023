"""What is in memory of the spool: who may fetch more, and who has to leave its room to others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.replay.key import KeyReplay
    from sidecar.amqp.spool.message import SpooledMessage
    from sidecar.amqp.spool.store import Spool

#: What is in memory at once, sent or not: messages and bytes; and how little room is not worth fetching for.
AHEAD: Final = 1000
AHEAD_BYTES: Final = 4 << 20
_LITTLE: Final = 16
#: After so many seconds without an answer a key leaves its room in memory to others, if there is somebody who needs it;
#: of such keys so many messages may be in memory beside the others.
_STALL: Final = 5.0
_MOST_STALLED: Final = 4 * AHEAD


class Prefetch:
    """Fetches for the keys that want to, in turn. ``fetched`` is called with each that got an answer."""

    __slots__ = ("_fetched", "_hungry", "_spool", "ahead", "ahead_bytes", "stalled")

    def __init__(self, spool: Spool, fetched: Callable[[KeyReplay], None]) -> None:
        self._spool = spool
        self._fetched = fetched
        self._hungry: deque[KeyReplay] = deque()
        #: What is in memory, and what is being fetched.
        self.ahead = 0
        self.ahead_bytes = 0
        #: What is in memory of keys that get no answers.
        self.stalled = 0

    def want(self, key: KeyReplay) -> None:
        """It should fetch, when it is its turn, if it has not enough, or less important ones."""
        reading = key.reading
        if key.hungry or reading.busy or reading.ended or key.stalled:
            return
        if len(key.loaded) * 2 > key.allowed and not reading.urgent:
            return
        there = self._spool.keys.get(key.name)
        if there is not None and (there.count > key.known or key.left):
            key.hungry = True
            self._hungry.append(key)

    def feed(self) -> None:
        """Fetch for those who want to, as long as there is room."""
        while self._hungry:
            room = AHEAD - self.ahead
            room_bytes = AHEAD_BYTES - self.ahead_bytes
            if room < _LITTLE or room_bytes < AHEAD_BYTES // 64:
                return
            key = self._hungry.popleft()
            key.hungry = False
            if key.reading.ended or key.stalled:
                continue
            key.reading.begin()
            reserved = min(room, key.allowed)
            self.ahead += reserved
            answered = partial(self._answered, key, reserved)
            self._spool.fetch(key.name, key.reading.after, reserved, min(room_bytes, AHEAD_BYTES // 4), answered)

    def _answered(self, key: KeyReplay, reserved: int, messages: list[SpooledMessage]) -> None:
        self.ahead -= reserved
        for message in key.take_in(key.reading.done(messages)):
            self._count(message)
        self._fetched(key)

    def forget(self, key: KeyReplay, message: SpooledMessage) -> None:
        """A message is not in memory any more."""
        self.ahead -= 1
        self.ahead_bytes -= message.size
        if key.reading.busy:
            key.reading.gone.add(message.id)

    def restart(self, key: KeyReplay) -> None:
        """Look for the key's messages from the beginning, but for those that are on their way."""
        key.withdraw()
        self._drop_loaded(key)
        for message in key.asides.clear():
            self.forget(key, message)
        key.unpark()
        key.unseen = 0
        key.reading.restart()
        self.want(key)

    def look_for_stalled(self, key: KeyReplay, now: float) -> None:
        """A key may get no answers (a quorum queue without its majority, for one). Others are not to wait for that with
        it: it leaves them its room."""
        if not key.sent or key.stalled or not self._hungry or now - key.heard < _STALL:
            return
        if key.reading.busy or key.asides.by_routing_key or self.stalled + len(key.sent) > _MOST_STALLED:
            return
        key.withdraw()
        if key.loaded:
            key.reading.rewind(key.loaded[0].cursor)
            self._drop_loaded(key)
        key.stalled = True
        self.stalled += len(key.sent)
        for message in key.sent.values():
            self.forget(key, message)

    def answers(self, key: KeyReplay) -> None:
        """A stalled key gets answers again."""
        key.stalled = False
        self.stalled -= len(key.sent)
        for message in key.sent.values():
            self._count(message)

    def _count(self, message: SpooledMessage) -> None:
        self.ahead += 1
        self.ahead_bytes += message.size

    def _drop_loaded(self, key: KeyReplay) -> None:
        for message in key.loaded:
            self.forget(key, message)
        key.loaded.clear()
