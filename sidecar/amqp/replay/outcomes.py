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
    from sidecar.amqp.monitor.connection import Report
    from sidecar.amqp.publisher.connection import Publisher
    from sidecar.amqp.replay.backoff import Rests
    from sidecar.amqp.replay.prefetch import Prefetch
    from sidecar.amqp.replay.stats import ReplayStats
    from sidecar.amqp.replay.stream import KeyName, KeyReplay
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
    """``keys`` are those there are. ``go_on`` is called with each key that may have something to do after an answer."""

    __slots__ = (
        "_clock", "_exchanges", "_go_on", "_keys", "_prefetch", "_report", "_rests", "_returned", "_spool", "_stats",
        "_troubled", "dead_after", "on_settled",
    )  # fmt: skip

    def __init__(
        self,
        spool: Spool,
        keys: Mapping[KeyName, KeyReplay],
        prefetch: Prefetch,
        rests: Rests,
        stats: ReplayStats,
        exchanges: AmqpStats,
        clock: Callable[[], float],
        report: Report,
        dead_after: int,
        go_on: Callable[[KeyReplay], None],
    ) -> None:
        self._spool = spool
        self._keys = keys
        self._prefetch = prefetch
        self._rests = rests
        self._stats = stats
        self._exchanges = exchanges
        self._clock = clock
        self._report = report
        self._go_on = go_on
        #: So many refusals make a message a dead letter (0: none do).
        self.dead_after = dead_after
        #: Called with messages that are done with: the broker has them (True), or they are dead letters.
        self.on_settled: Callable[[list[SpooledMessage], bool], None] | None = None
        #: Messages that came back unrouted, before they were confirmed: id → code, text, whether to try again.
        self._returned: dict[int, tuple[int, str, bool]] = {}
        #: What has been reported as having dead letters.
        self._troubled: set[str] = set()

    # -- the broker's answers ------------------------------------------------------------------------------------------

    def answered(self, tokens: list[object], taken: bool) -> None:
        """It has these messages, or could not take them this time."""
        done: list[SpooledMessage] = []
        keys: dict[KeyReplay, None] = {}
        for token in tokens:
            assert isinstance(token, SpooledMessage)
            message = token
            key = self._take(message)
            if key is None:
                continue
            keys[key] = None
            returned = self._returned.pop(message.id, None) if self._returned else None
            stats = self._exchanges.exchange(message.vhost, message.exchange)
            if not taken:
                stats.nacked += 1
                self._stats.nacked += 1
                self._failed(key, message, 0, "")
                continue
            stats.confirmed += 1
            if returned is not None:
                code, text, again = returned
                if again:
                    self._put_aside(key, message, _LOOK_AGAIN)
                else:
                    self.bury(key, message, UNROUTABLE, code, text)
            else:
                self._prefetch.forget(key, message)
                done.append(message)
                if key.asides.by_routing_key and key.asides.tries(message):
                    self._prefetch.release(key, message.routing_key)
                if self._troubled:
                    self._works(message)
        if done:
            self._stats.replayed += len(done)
            self._spool.remove(done)
            if self.on_settled is not None:
                self.on_settled(done, True)
        for key in keys:
            if taken:
                key.worked = key.moved
                if not key.paused:
                    key.missing_since = inf
                    key.widen()
            self._go_on(key)

    def returned(self, token: object, code: int, text: str, since: float) -> None:
        """A message found no queue; its confirm follows. The connection has stood ``since`` then: while it is young,
        the clients whose queue it may be for are still on their way."""
        assert isinstance(token, SpooledMessage)
        self._returned[token.id] = code, text, self._clock() - since < MISSING

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        """A channel or a connection was closed because of a message."""
        assert isinstance(token, SpooledMessage)
        self._returned.pop(token.id, None)
        key = self._take(token)
        if key is None:
            return
        now = self._clock()
        reason = for_good(code, text)
        if reason == MISSED and now - min(key.missing_since, now) < MISSING:
            key.missing_since = min(key.missing_since, now)
            again = [token]
            for other in publisher.recall(token.exchange.encode("utf-8", "surrogateescape")):
                assert isinstance(other, SpooledMessage)
                if self._take(other) is not None:
                    again.append(other)
            key.insert(again)
            key.allowed = 1
            self._rests.pause(key, _LOOK_AGAIN)
        elif reason:
            self.bury(key, token, reason, code, text)
            if reason == MISSED:
                key.widen()  # the others need not find it out one by one
        else:
            self._failed(key, token, code, text)
        self._go_on(key)

    def lost(self, tokens: list[object]) -> list[KeyReplay]:
        """There will be no answer for these. They are sent again, in their old places; their keys."""
        again: dict[KeyReplay, list[SpooledMessage]] = {}
        for token in tokens:
            assert isinstance(token, SpooledMessage)
            key = self._take(token)
            if key is not None:
                self._returned.pop(token.id, None)
                again.setdefault(key, []).append(token)
        for key, messages in again.items():
            key.insert(messages)
        return list(again)

    def _take(self, message: SpooledMessage) -> KeyReplay | None:
        """Something is known of a message that was sent: its key."""
        key = self._keys.get(message.key)
        if key is None or message.id not in key.sent:
            return None
        self._prefetch.counts(key)
        key.moved = self._clock()
        del key.sent[message.id]
        return key

    # -- what was not taken --------------------------------------------------------------------------------------------

    def _failed(self, key: KeyReplay, message: SpooledMessage, code: int, text: str) -> None:
        """The broker did not take it this time."""
        self._spool.tried([message])
        if 0 < self.dead_after <= message.attempts:
            self.bury(key, message, NACKED, code, text)
        else:
            self._put_aside(key, message, min(_FIRST_PAUSE * (1 << min(message.attempts - 1, 16)), _LONGEST_PAUSE))

    def _put_aside(self, key: KeyReplay, message: SpooledMessage, pause: float) -> None:
        """Try it again after a pause. The messages with the same routing key wait with it, because they are to stay in
        order; others go on, as they may lead elsewhere."""
        self._prefetch.forget(key, message)
        if key.asking is not None and key.asking.routing_key == message.routing_key:
            key.withdraw()
        if key.asides.put(message):
            self._rests.retry(key, message.routing_key, pause)

    def retry(self, key: KeyReplay, routing_key: str) -> None:
        """Try the first of those that were not taken again."""
        key.asides.call(routing_key)
        self._go_on(key)

    def bury(self, key: KeyReplay, message: SpooledMessage, reason: str, code: int, text: str) -> None:
        """It becomes a dead letter, unless it was of use for a moment only and that is over. ``code`` and ``text`` are
        the broker's, as far as it gave any."""
        self._prefetch.forget(key, message)
        asides = key.asides
        if asides.by_routing_key and asides.tries(message):
            if asides.gave_up(message.routing_key):
                self._rests.retry(key, message.routing_key, _FIRST_PAUSE if reason == NACKED else 0.0)
            else:
                self._prefetch.release(key, message.routing_key)
        key.worked = key.moved
        if message.brief and reason in (EXPIRED, UNROUTABLE):
            self._stats.expired += 1
            self._spool.remove([message])
            if self.on_settled is not None:
                self.on_settled([message], False)
            return
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
