"""What becomes of messages that were sent: delivered, tried again, or dead letters."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.replay.reasons import EXPIRED, MISSED, NACKED, PLAIN, UNROUTABLE, for_good
from sidecar.amqp.spool.message import SpooledMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.monitor.connection import TroubleLog
    from sidecar.amqp.publisher.connection import Publisher
    from sidecar.amqp.replay.backoff import StreamBackoff
    from sidecar.amqp.replay.prefetch import Prefetch
    from sidecar.amqp.replay.stats import ReplayStats
    from sidecar.amqp.replay.stream import Stream, StreamName
    from sidecar.amqp.spool.store import Spool

#: For how long an exchange may be missing before its messages are given up, or a queue after a connection stands, and
#: between two looks for it (seconds): after a restart of the broker, clients declare again what was not durable.
MISSING: Final = 15.0
_LOOK_AGAIN: Final = 1.0
#: Pauses after a refusal: the first, doubled each time, and the longest (seconds).
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: How many exchanges with dead letters are reported each for itself.
_MOST_TROUBLES: Final = 100


class Outcomes:
    """``streams`` are those there are. ``go_on`` is called with each stream that may have something to do after an
    answer."""

    __slots__ = (
        "_backoff",
        "_clock",
        "_exchanges",
        "_go_on",
        "_prefetch",
        "_report",
        "_returned",
        "_spool",
        "_stats",
        "_streams",
        "_troubled",
        "dead_after",
        "on_dead",
        "on_settled",
    )  # fmt: skip

    def __init__(
        self,
        spool: Spool,
        streams: Mapping[StreamName, Stream],
        prefetch: Prefetch,
        backoff: StreamBackoff,
        stats: ReplayStats,
        exchanges: AmqpStats,
        clock: Callable[[], float],
        report: TroubleLog,
        dead_after: int,
        go_on: Callable[[Stream], None],
    ) -> None:
        self._spool = spool
        self._streams = streams
        self._prefetch = prefetch
        self._backoff = backoff
        self._stats = stats
        self._exchanges = exchanges
        self._clock = clock
        self._report = report
        self._go_on = go_on
        #: So many refusals make a message a dead letter (0: none do).
        self.dead_after = dead_after
        #: Called with messages that are done with: the broker has them (True), or they are dead letters.
        self.on_settled: Callable[[list[SpooledMessage], bool], None] | None = None
        #: Called with each message that becomes a dead letter, and why.
        self.on_dead: Callable[[SpooledMessage, str], None] | None = None
        #: Messages that came back unrouted, before they were confirmed: id → code, text, whether to try again.
        self._returned: dict[int, tuple[int, str, bool]] = {}
        #: What has been reported as having dead letters.
        self._troubled: set[str] = set()

    # -- the broker's answers ------------------------------------------------------------------------------------------

    def answered(self, tokens: list[object], taken: bool) -> None:
        """It has these messages, or could not take them this time."""
        done: list[SpooledMessage] = []
        streams: dict[Stream, None] = {}
        for token in tokens:
            assert isinstance(token, SpooledMessage)
            message = token
            stream = self._take(message)
            if stream is None:
                continue
            streams[stream] = None
            returned = self._returned.pop(message.id, None) if self._returned else None
            stats = self._exchanges.exchange(message.vhost, message.exchange)
            if not taken:
                stats.nacked += 1
                self._stats.nacked += 1
                self._failed(stream, message, 0, "")
                continue
            stats.confirmed += 1
            if returned is not None:
                code, text, again = returned
                if again:
                    self._put_aside(stream, message, _LOOK_AGAIN)
                else:
                    self.bury(stream, message, UNROUTABLE, code, text)
            else:
                self._prefetch.forget(stream, message)
                done.append(message)
                if stream.deferred.by_routing_key and stream.deferred.tries(message):
                    self._prefetch.release(stream, message.routing_key)
                if self._troubled:
                    self._works(message)
        if done:
            self._stats.replayed += len(done)
            self._spool.remove(done)
            if self.on_settled is not None:
                self.on_settled(done, True)
        for stream in streams:
            if taken:
                stream.worked = stream.moved
                if not stream.paused:
                    stream.missing_since = inf
                    stream.widen()
            self._go_on(stream)

    def returned(self, token: object, code: int, text: str, since: float) -> None:
        """A message found no queue; its confirm follows. The connection has stood ``since`` then: while it is young,
        the clients whose queue it may be for are still on their way."""
        assert isinstance(token, SpooledMessage)
        self._returned[token.id] = code, text, self._clock() - since < MISSING

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """A channel or a connection was closed because of a message."""
        assert isinstance(token, SpooledMessage)
        self._returned.pop(token.id, None)
        stream = self._take(token)
        if stream is None:
            return
        now = self._clock()
        reason = for_good(code, text)
        if reason == MISSED and now - min(stream.missing_since, now) < MISSING:
            stream.missing_since = min(stream.missing_since, now)
            again = [token]
            for other in publisher.recall(token.exchange.encode("utf-8", "surrogateescape")):
                assert isinstance(other, SpooledMessage)
                if self._take(other) is not None:
                    again.append(other)
            stream.insert(again)
            stream.allowed = 1
            self._backoff.pause(stream, _LOOK_AGAIN)
        elif reason:
            self.bury(stream, token, reason, code, text)
            if reason == MISSED:
                stream.widen()  # the others need not find it out one by one
        else:
            self._failed(stream, token, code, text)
        self._go_on(stream)

    def lost(self, tokens: list[object]) -> list[Stream]:
        """There will be no answer for these. They are sent again, in their old places; their streams."""
        again: dict[Stream, list[SpooledMessage]] = {}
        for token in tokens:
            assert isinstance(token, SpooledMessage)
            stream = self._take(token)
            if stream is not None:
                self._returned.pop(token.id, None)
                again.setdefault(stream, []).append(token)
        for stream, messages in again.items():
            stream.insert(messages)
        return list(again)

    def _take(self, message: SpooledMessage) -> Stream | None:
        """Something is known of a message that was sent: its stream."""
        stream = self._streams.get(message.stream)
        if stream is None or message.id not in stream.sent:
            return None
        self._prefetch.counts(stream)
        stream.moved = self._clock()
        del stream.sent[message.id]
        return stream

    # -- what was not taken --------------------------------------------------------------------------------------------

    def _failed(self, stream: Stream, message: SpooledMessage, code: int, text: str) -> None:
        """The broker did not take it this time."""
        self._spool.tried([message])
        if 0 < self.dead_after <= message.attempts:
            self.bury(stream, message, NACKED, code, text)
        else:
            self._put_aside(stream, message, min(_FIRST_PAUSE * (1 << min(message.attempts - 1, 16)), _LONGEST_PAUSE))

    def _put_aside(self, stream: Stream, message: SpooledMessage, pause: float) -> None:
        """Try it again after a pause. The messages with the same routing key wait with it, because they are to stay in
        order; others go on, as they may lead elsewhere."""
        self._prefetch.forget(stream, message)
        if stream.asking is not None and stream.asking.routing_key == message.routing_key:
            stream.withdraw()
        if stream.deferred.put(message):
            self._backoff.retry(stream, message.routing_key, pause)

    def retry(self, stream: Stream, routing_key: str) -> None:
        """Try the first of those that were not taken again."""
        stream.deferred.call(routing_key)
        self._go_on(stream)

    def bury(self, stream: Stream, message: SpooledMessage, reason: str, code: int, text: str) -> None:
        """It becomes a dead letter, unless it was of use for a moment only and that is over. ``code`` and ``text`` are
        the broker's, as far as it gave any."""
        self._prefetch.forget(stream, message)
        deferred = stream.deferred
        if deferred.by_routing_key and deferred.tries(message):
            if deferred.gave_up(message.routing_key):
                self._backoff.retry(stream, message.routing_key, _FIRST_PAUSE if reason == NACKED else 0.0)
            else:
                self._prefetch.release(stream, message.routing_key)
        stream.worked = stream.moved
        if message.brief and reason in (EXPIRED, UNROUTABLE):
            self._stats.expired += 1
            self._spool.remove([message])
            if self.on_settled is not None:
                self.on_settled([message], False)
            return
        if self.on_dead is not None:
            self.on_dead(message, reason)
        if self._exchanges.stories is not None:
            self._exchanges.stories.dead(message, reason, code, text)
        self._spool.dead(message, reason, code, text)
        dead = self._stats.dead
        dead[reason] = dead.get(reason, 0) + 1
        if reason == EXPIRED:
            self._stats.expired += 1
        source = _source(message)
        if source not in self._troubled and len(self._troubled) < _MOST_TROUBLES:
            self._troubled.add(source)
        if source in self._troubled:
            why = text[:200] or PLAIN.get(reason, "the broker does not say why")
            self._report.bad(source, reason, f"messages become dead letters ({reason}): {why}")
        if self.on_settled is not None:
            self.on_settled([message], False)

    def _works(self, message: SpooledMessage) -> None:
        source = _source(message)
        if source in self._troubled:
            self._troubled.discard(source)
            self._report.good(source)


def _source(message: SpooledMessage) -> str:
    return f"spool, exchange {message.exchange[:80]!r} of vhost {message.vhost[:80]!r}"
