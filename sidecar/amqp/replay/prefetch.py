"""What is in memory of the spool: who may fetch more, and who has to leave its room to others.

There is one rule: a key that cannot move, for whatever reason, gives its room to those who can, as soon as they want
it. What it had fetched is fetched again when it can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.replay.cursor import BEGINNING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.amqp.replay.cursor import Cursor
    from sidecar.amqp.replay.stream import KeyReplay
    from sidecar.amqp.spool.message import SpooledMessage
    from sidecar.amqp.spool.store import Spool
    from sidecar.net.wheel import TimerWheel

#: What is in memory at once, sent or not: messages and bytes; and how little room is not worth fetching for.
AHEAD: Final = 1000
AHEAD_BYTES: Final = 4 << 20
_LITTLE: Final = 16
#: After so many seconds without moving a key gives up what it has fetched, if there is somebody who wants its room;
MOMENT: Final = 0.25
#: after so many, what it has sent, or what stands in the line of a gate, does not count any more. Of that, so much may
#: be in memory beside the rest.
_STALL: Final = 5.0
_MOST_STALLED: Final = 4 * AHEAD
_MOST_STALLED_BYTES: Final = AHEAD_BYTES


class Prefetch:
    """Fetches for the keys that want to, in turn. ``fetched`` is called with each that got an answer, ``keys`` are all
    there are."""

    __slots__ = (
        "_clock", "_fetched", "_hungry", "_keys", "_spool", "_timer", "ahead", "ahead_bytes", "most", "stalled",
        "stalled_bytes",
    )  # fmt: skip

    def __init__(
        self,
        spool: Spool,
        keys: Callable[[], Iterable[KeyReplay]],
        fetched: Callable[[KeyReplay], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._keys = keys
        self._fetched = fetched
        self._clock = clock
        self._hungry: deque[KeyReplay] = deque()
        self._timer = wheel.timer(self._on_timer)
        #: What is in memory, and what is being fetched; and how many messages that may be.
        self.most = AHEAD
        self.ahead = 0
        self.ahead_bytes = 0
        #: What is in memory of keys that cannot move, and does not count.
        self.stalled = 0
        self.stalled_bytes = 0

    def close(self) -> None:
        """Nobody gives up anything any more."""
        self._timer.close()

    def want(self, key: KeyReplay) -> None:
        """It should fetch, when it is its turn, if it has not enough, or less important ones."""
        reading = key.reading
        if key.gone:
            return
        if key.parked and reading.urgent and reading.after < key.parked_to:
            key.unpark()
            self.reread(key, key.parked_from)  # all of them, or they would be overtaken
            return
        if key.stuck and key.free and not key.asides.full:
            self._moves(key)
        if key.hungry or reading.busy:
            return
        if not (key.asides.due and key.free):
            if reading.ended or key.stuck:
                return
            if len(key.loaded) * 2 > key.allowed and not reading.urgent:
                return
            there = self._spool.keys.get(key.name)
            if there is None or (there.count <= key.known and not key.left):
                return
        key.hungry = True
        self._hungry.append(key)

    def feed(self) -> None:
        """Fetch for those who want to, as long as there is room."""
        while self._hungry:
            room = self.most - self.ahead
            room_bytes = AHEAD_BYTES - self.ahead_bytes
            if room < _LITTLE or room_bytes < AHEAD_BYTES // 64:
                if self._timer.deadline == inf:
                    self._timer.set(self._clock() + MOMENT)
                return
            key = self._hungry.popleft()
            key.hungry = False
            if key.gone:
                continue
            if key.asides.due and key.free:
                self._fetch_called(key, room_bytes)
                self.want(key)
            elif not key.reading.ended and not key.stuck:
                self._fetch(key, room, room_bytes)

    def _fetch(self, key: KeyReplay, room: int, room_bytes: int) -> None:
        there = self._spool.keys.get(key.name)
        count = min(room, key.allowed)
        limit = size = min(room_bytes, AHEAD_BYTES // 4)
        if there is not None and there.count > 0:
            count = min(count, there.count)
            size = min(limit, there.bytes * count // there.count)
        key.reading.begin()
        self._reserve(count, size)
        self._spool.fetch(key.name, key.reading.after, count, limit, partial(self._answered, key, count, size))

    def _answered(self, key: KeyReplay, count: int, size: int, messages: list[SpooledMessage]) -> None:
        self._reserve(-count, -size)
        key.moved = self._clock()
        messages = key.reading.done(messages)
        if not key.gone:
            for message in key.take_in(messages):
                self._count(message)
            self._fetched(key)

    def _fetch_called(self, key: KeyReplay, room_bytes: int) -> None:
        """Fetch one that is to be tried again."""
        called = key.asides.called()
        if called is not None:
            routing_key, cursor = called
            self._reserve(1, 0)
            answered = partial(self._came, key, routing_key, cursor)
            self._spool.fetch(key.name, (cursor[0], cursor[1] - 1), 1, room_bytes, answered)

    def _came(self, key: KeyReplay, routing_key: str, cursor: Cursor, messages: list[SpooledMessage]) -> None:
        self._reserve(-1, 0)
        if key.gone:
            return
        message = messages[0] if messages and messages[0].cursor == cursor else None
        if key.asides.take(routing_key, cursor, message) and message is not None:
            self.counts(key)
            key.moved = self._clock()
            self._count(message)
            key.loaded.insert(0, message)
        elif key.asides.nothing(routing_key):
            self.release(key, routing_key)
        self._fetched(key)

    def forget(self, key: KeyReplay, message: SpooledMessage) -> None:
        """A message is not in memory any more."""
        self.ahead -= 1
        self.ahead_bytes -= message.size
        if key.reading.busy:
            key.reading.gone[message.id] = None

    # -- reading again -------------------------------------------------------------------------------------------------

    def release(self, key: KeyReplay, routing_key: str) -> None:
        """What was not taken with this routing key may all go, and what was left behind it."""
        cursor = key.asides.release(routing_key)
        if cursor is not None:
            self.reread(key, cursor)

    def reread(self, key: KeyReplay, cursor: Cursor = BEGINNING) -> None:
        """Read the key's messages again from that place on, but for those that are on their way."""
        key.withdraw()
        self.counts(key)
        self._unload(key)
        key.unseen = 0
        key.reading.rewind(cursor)
        self.want(key)

    def leave(self, key: KeyReplay) -> None:
        """Nothing of the key is in memory any more; nothing of it is on its way."""
        key.withdraw()
        self.counts(key)
        for message in key.loaded:
            self.forget(key, message)
        key.loaded = []

    def _unload(self, key: KeyReplay) -> None:
        """Leave in the spool what was fetched and is in no line."""
        kept: list[SpooledMessage] = []
        for message in key.loaded:
            if message is key.asking:
                kept.append(message)
                continue
            self.forget(key, message)
            if key.asides.by_routing_key and key.asides.tries(message):
                key.asides.put_back(message)
            else:
                key.reading.rewind(message.cursor)
        key.loaded = kept

    # -- those that cannot move ----------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        """Somebody wants room, and there was none."""
        now = self._clock()
        for key in self._keys():
            if key.stalled or now - key.moved < MOMENT or key.ready or key.reading.busy:
                continue
            if len(key.loaded) > (1 if key.asking is not None else 0):
                key.stuck = True
                key.allowed = 1
                self._unload(key)
            if now - key.moved >= _STALL:
                self._stall(key)
        self.feed()

    def _stall(self, key: KeyReplay) -> None:
        """What is still in memory of it counts apart, if it may. If not, it loses its place in the gate's line."""
        messages = self._kept(key)
        size = sum([message.size for message in messages])
        fits = self.stalled + len(messages) <= _MOST_STALLED and self.stalled_bytes + size <= _MOST_STALLED_BYTES
        if messages and (fits or not self.stalled):
            key.stuck = key.stalled = True
            self._set_apart(len(messages), size)
        elif key.asking is not None:
            key.withdraw()
            self._unload(key)
            self.want(key)

    def _moves(self, key: KeyReplay) -> None:
        """It can move again."""
        key.stuck = False
        self.counts(key)

    def counts(self, key: KeyReplay) -> None:
        """What is in memory of it counts again as everybody's, if it did not."""
        if key.stalled:
            key.stalled = False
            messages = self._kept(key)
            self._set_apart(-len(messages), -sum([message.size for message in messages]))

    def _kept(self, key: KeyReplay) -> list[SpooledMessage]:
        return [*key.sent.values(), *key.loaded]

    def _set_apart(self, count: int, size: int) -> None:
        self.stalled += count
        self.stalled_bytes += size
        self._reserve(-count, -size)

    def _reserve(self, count: int, size: int) -> None:
        self.ahead += count
        self.ahead_bytes += size

    def _count(self, message: SpooledMessage) -> None:
        self._reserve(1, message.size)
