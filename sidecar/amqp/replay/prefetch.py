"""What is in memory of the spool: who may fetch more, and who has to leave its room to others.

There is one rule: a stream that cannot move, for whatever reason, gives its room to those who can, as soon as they want
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

    from sidecar.amqp.replay.cursor import Position
    from sidecar.amqp.replay.stream import Stream
    from sidecar.amqp.spool.message import SpooledMessage
    from sidecar.amqp.spool.store import Spool
    from sidecar.net.wheel import TimerWheel

#: What is in memory at once, sent or not: messages and bytes; and how little room is not worth fetching for.
AHEAD: Final = 1000
AHEAD_BYTES: Final = 4 << 20
_LITTLE: Final = 16
#: After so many seconds without moving a stream gives up what it has fetched, if there is somebody who wants its room;
MOMENT: Final = 0.25
#: after so many, what it has sent, or what stands in the line of a gate, does not count any more. Of that, so much may
#: be in memory beside the rest.
_STALL: Final = 5.0
_MOST_STALLED: Final = 4 * AHEAD
_MOST_STALLED_BYTES: Final = AHEAD_BYTES


class Prefetch:
    """Fetches for the streams that want to, in turn. ``fetched`` is called with each that got an answer, ``streams``
    are all there are."""

    __slots__ = (
        "_clock",
        "_fetched",
        "_hungry",
        "_spool",
        "_streams",
        "_timer",
        "ahead",
        "ahead_bytes",
        "most",
        "stalled",
        "stalled_bytes",
    )  # fmt: skip

    def __init__(
        self,
        spool: Spool,
        streams: Callable[[], Iterable[Stream]],
        fetched: Callable[[Stream], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._streams = streams
        self._fetched = fetched
        self._clock = clock
        self._hungry: deque[Stream] = deque()
        self._timer = wheel.timer(self._on_timer)
        #: What is in memory, and what is being fetched; and how many messages that may be.
        self.most = AHEAD
        self.ahead = 0
        self.ahead_bytes = 0
        #: What is in memory of streams that cannot move, and does not count.
        self.stalled = 0
        self.stalled_bytes = 0

    def close(self) -> None:
        """Nobody gives up anything any more."""
        self._timer.close()

    def want(self, stream: Stream) -> None:
        """It should fetch, when it is its turn, if it has not enough, or less important ones."""
        cursor = stream.cursor
        if stream.gone:
            return
        if stream.parked and cursor.urgent and cursor.after < stream.parked_to:
            stream.unpark()
            self.reread(stream, stream.parked_from)  # all of them, or they would be overtaken
            return
        if stream.stuck and stream.free and not stream.deferred.full:
            self._moves(stream)
        if stream.hungry or cursor.busy:
            return
        if not (stream.deferred.due and stream.free):
            if cursor.ended or stream.stuck:
                return
            if len(stream.loaded) * 2 > stream.allowed and not cursor.urgent:
                return
            there = self._spool.streams.get(stream.name)
            if there is None or (there.count <= stream.known and not stream.left):
                return
        stream.hungry = True
        self._hungry.append(stream)

    def feed(self) -> None:
        """Fetch for those who want to, as long as there is room."""
        while self._hungry:
            room = self.most - self.ahead
            room_bytes = AHEAD_BYTES - self.ahead_bytes
            if room < _LITTLE or room_bytes < AHEAD_BYTES // 64:
                if self._timer.deadline == inf:
                    self._timer.set(self._clock() + MOMENT)
                return
            stream = self._hungry.popleft()
            stream.hungry = False
            if stream.gone:
                continue
            if stream.deferred.due and stream.free:
                self._fetch_called(stream, room_bytes)
                self.want(stream)
            elif not stream.cursor.ended and not stream.stuck:
                self._fetch(stream, room, room_bytes)

    def _fetch(self, stream: Stream, room: int, room_bytes: int) -> None:
        there = self._spool.streams.get(stream.name)
        count = min(room, stream.allowed)
        limit = size = min(room_bytes, AHEAD_BYTES // 4)
        if there is not None and there.count > 0:
            count = min(count, there.count)
            size = min(limit, there.bytes * count // there.count)
        stream.cursor.begin()
        self._reserve(count, size)
        self._spool.fetch(stream.name, stream.cursor.after, count, limit, partial(self._answered, stream, count, size))

    def _answered(self, stream: Stream, count: int, size: int, messages: list[SpooledMessage]) -> None:
        self._reserve(-count, -size)
        stream.moved = self._clock()
        messages = stream.cursor.done(messages)
        if not stream.gone:
            for message in stream.take_in(messages):
                self._count(message)
            self._fetched(stream)

    def _fetch_called(self, stream: Stream, room_bytes: int) -> None:
        """Fetch one that is to be tried again."""
        called = stream.deferred.called()
        if called is not None:
            routing_key, position = called
            self._reserve(1, 0)
            answered = partial(self._came, stream, routing_key, position)
            self._spool.fetch(stream.name, (position[0], position[1] - 1), 1, room_bytes, answered)

    def _came(self, stream: Stream, routing_key: str, position: Position, messages: list[SpooledMessage]) -> None:
        self._reserve(-1, 0)
        if stream.gone:
            return
        message = messages[0] if messages and messages[0].position == position else None
        if stream.deferred.take(routing_key, position, message) and message is not None:
            self.counts(stream)
            stream.moved = self._clock()
            self._count(message)
            stream.loaded.insert(0, message)
        elif stream.deferred.nothing(routing_key):
            self.release(stream, routing_key)
        self._fetched(stream)

    def forget(self, stream: Stream, message: SpooledMessage) -> None:
        """A message is not in memory any more."""
        self.ahead -= 1
        self.ahead_bytes -= message.size
        if stream.cursor.busy:
            stream.cursor.gone[message.id] = None

    # -- reading again -------------------------------------------------------------------------------------------------

    def release(self, stream: Stream, routing_key: str) -> None:
        """What was not taken with this routing key may all go, and what was left behind it."""
        position = stream.deferred.release(routing_key)
        if position is not None:
            self.reread(stream, position)

    def reread(self, stream: Stream, position: Position = BEGINNING) -> None:
        """Read the stream's messages again from that place on, but for those that are on their way."""
        stream.withdraw()
        self.counts(stream)
        self._unload(stream)
        stream.unseen = 0
        stream.cursor.rewind(position)
        self.want(stream)

    def leave(self, stream: Stream) -> None:
        """Nothing of the stream is in memory any more; nothing of it is on its way."""
        stream.withdraw()
        self.counts(stream)
        for message in stream.loaded:
            self.forget(stream, message)
        stream.loaded = []

    def _unload(self, stream: Stream) -> None:
        """Leave in the spool what was fetched and is in no line."""
        staying: list[SpooledMessage] = []
        for message in stream.loaded:
            if message is stream.asking:
                staying.append(message)
                continue
            self.forget(stream, message)
            if stream.deferred.by_routing_key and stream.deferred.tries(message):
                stream.deferred.put_back(message)
            else:
                stream.cursor.rewind(message.position)
        stream.loaded = staying

    # -- those that cannot move ----------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        """Somebody wants room, and there was none."""
        now = self._clock()
        for stream in self._streams():
            if stream.stalled or now - stream.moved < MOMENT or stream.ready or stream.cursor.busy:
                continue
            if len(stream.loaded) > (1 if stream.asking is not None else 0):
                stream.stuck = True
                stream.allowed = 1
                self._unload(stream)
            if now - stream.moved >= _STALL:
                self._stall(stream)
        self.feed()

    def _stall(self, stream: Stream) -> None:
        """What is still in memory of it counts apart, if it may. If not, it loses its place in the gate's line."""
        messages = self._in_memory(stream)
        size = sum([message.size for message in messages])
        fits = self.stalled + len(messages) <= _MOST_STALLED and self.stalled_bytes + size <= _MOST_STALLED_BYTES
        if messages and (fits or not self.stalled):
            stream.stuck = stream.stalled = True
            self._set_apart(len(messages), size)
        elif stream.asking is not None:
            stream.withdraw()
            self._unload(stream)
            self.want(stream)

    def _moves(self, stream: Stream) -> None:
        """It can move again."""
        stream.stuck = False
        self.counts(stream)

    def counts(self, stream: Stream) -> None:
        """What is in memory of it counts again as everybody's, if it did not."""
        if stream.stalled:
            stream.stalled = False
            messages = self._in_memory(stream)
            self._set_apart(-len(messages), -sum([message.size for message in messages]))

    def _in_memory(self, stream: Stream) -> list[SpooledMessage]:
        return [*stream.sent.values(), *stream.loaded]

    def _set_apart(self, count: int, size: int) -> None:
        self.stalled += count
        self.stalled_bytes += size
        self._reserve(-count, -size)

    def _reserve(self, count: int, size: int) -> None:
        self.ahead += count
        self.ahead_bytes += size

    def _count(self, message: SpooledMessage) -> None:
        self._reserve(1, message.size)
