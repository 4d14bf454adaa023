"""Which exchanges may be published to without care.

unknown ─ looked for ─> trusted ─ a message closed the channel ─> one by one ─ enough answers ─> trusted
              └ missing: refused                  └ 404: looked for

With the default exchange, that is so for each queue (see :meth:`Sent.lane`); it need not be looked for.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sidecar.amqp.publisher.passive_declare import Lookup
from sidecar.amqp.publisher.unconfirmed import NO_EXCHANGE, Sent

#: The most answers that an exchange has to earn before it is trusted again.
LONGEST_DOUBT: Final = 256
#: How many exchanges are remembered, in doubt and trusted.
_MOST_DOUBTS: Final = 256
_MOST_TRUSTED: Final = 10_000
_MOST_STRUCK: Final = 1000


class Doubt:
    """An exchange, or a queue, whose messages wait here. ``needed`` is how many answers it takes until it is trusted:
    as long as it is not 0, they are sent one by one, as one of them closed the channel."""

    __slots__ = ("alone", "looking", "needed", "waiting")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        #: It is being looked for; nothing is sent meanwhile.
        self.looking = False
        self.alone: Sent | None = None
        self.waiting: deque[Sent] = deque()


class Exchanges:
    """Those of one connection. ``looks``: they are looked for before they are first used. ``apart``: what goes one by
    one goes over a channel of its own."""

    __slots__ = ("_strikes", "apart", "doubts", "looks", "lookup", "trusted")

    def __init__(self, looks: bool) -> None:
        self.looks = looks
        self.apart = False
        self.lookup = Lookup()
        #: The default exchange is always there.
        self.trusted = {b""}
        #: By exchange or queue; and how many messages of each were refused.
        self.doubts: dict[bytes, Doubt] = {}
        self._strikes: dict[bytes, int] = {}

    @property
    def busy(self) -> bool:
        """There are such that are not trusted, or there is something to say about them."""
        return bool(self.doubts) or self.lookup.due

    def holds(self, sent: Sent) -> bool:
        """The turn of a message has come; ``True``: its exchange or queue is not trusted, so it is kept here until
        :meth:`free` or :meth:`next` gives it back."""
        exchange = sent.exchange()
        if not self.doubts and exchange in self.trusted:
            return False
        lane = sent.lane()
        doubt = self.doubts.get(lane)
        if doubt is None:
            if exchange in self.trusted:
                return False
            if not self.looks:
                self._trust(exchange)
                return False
            doubt = self._doubt(lane)
            self._look_for(exchange, doubt)
        if self.apart or doubt.looking or doubt.alone is not None or doubt.waiting:
            doubt.waiting.append(sent)
            return True
        doubt.alone = sent
        return False

    def free(self, all_at_once: bool) -> list[Sent]:
        """What may go now. ``all_at_once``: somebody else sees to it that they go one by one."""
        free: list[Sent] = []
        for lane, doubt in list(self.doubts.items()):
            if doubt.looking or (self.apart and doubt.alone is not None):
                continue
            if doubt.needed <= 0 or all_at_once:
                del self.doubts[lane]
                self._trust(lane)
                free.extend(doubt.waiting)
            elif not self.apart and doubt.alone is None and doubt.waiting:
                doubt.alone = doubt.waiting.popleft()
                free.append(doubt.alone)
        return free

    def next(self) -> Sent | None:
        """The next one for the channel apart."""
        for lane, doubt in self.doubts.items():
            if doubt.needed > 0 and not doubt.looking and doubt.alone is None and doubt.waiting:
                doubt.alone = sent = doubt.waiting.popleft()
                del self.doubts[lane]  # to the end of the line
                self.doubts[lane] = doubt
                return sent
        return None

    def again(self, sent: Sent) -> None:
        """What was on its way there is to be sent again."""
        doubt = self.doubts.get(sent.lane())
        if doubt is not None:
            doubt.alone = None
            doubt.waiting.appendleft(sent)

    def answered(self, sent: Sent) -> None:
        """The broker has answered this one; others may be free now."""
        doubt = self.doubts.get(sent.lane())
        if doubt is not None and doubt.alone is sent:
            doubt.alone = None
            doubt.needed -= 1

    # -- missing -------------------------------------------------------------------------------------------------------

    def found(self, exchange: bytes) -> None:
        """It is there, or at least nobody says that it is not."""
        doubt = self.doubts.get(exchange)
        if doubt is not None:
            doubt.looking = False

    def count(self, exchange: bytes) -> int:
        """How many of its messages wait."""
        doubt = self.doubts.get(exchange)
        return 0 if doubt is None else len(doubt.waiting)

    def take(self, exchange: bytes) -> Sent | None:
        """The first of those, taken out."""
        doubt = self.doubts.get(exchange)
        return doubt.waiting.popleft() if doubt is not None and doubt.waiting else None

    def missed(self, exchange: bytes) -> None:
        """It is not there. The next message for it makes us look again."""
        doubt = self.doubts.get(exchange)
        if doubt is None:
            return
        if doubt.waiting:
            self.lookup.ask(exchange)
        else:
            del self.doubts[exchange]

    # -- when one of its messages is no good ---------------------------------------------------------------------------

    def suspect(self, lane: bytes, needed: int) -> None:
        """One of its messages has closed the channel, and nobody knows which of so many."""
        doubt = self._doubt(lane)
        doubt.needed = max(doubt.needed, needed)

    def strike(self, sent: Sent) -> None:
        """This message was no good. If there are many of them, trying one by one at once costs less than finding out
        anew each time; so each one makes for twice as many answers until there is trust again."""
        lane = sent.lane()
        strikes = self._strikes.pop(lane, 0)
        doubt = self._doubt(lane)
        doubt.needed = max(doubt.needed, min(1 << strikes, LONGEST_DOUBT))
        if doubt.alone is sent:
            doubt.alone = None
        if len(self._strikes) >= _MOST_STRUCK:
            del self._strikes[next(iter(self._strikes))]
        self._strikes[lane] = min(strikes + 1, 16)

    def vanished(self, exchange: bytes) -> None:
        """It was missing when something was published to it."""
        self.trusted.discard(exchange)
        doubt = self.doubts.get(exchange)
        if self.looks and doubt is not None and not doubt.looking:
            self._look_for(exchange, doubt)

    def put_back(self, left: list[Sent], guilty: Sent | None, all_at_once: bool) -> list[Sent]:
        """What was on its way, but for the ``guilty`` one, is to be sent again, before all that waits: what of it is
        not kept here. ``all_at_once`` as in :meth:`free`."""
        if not self.apart:
            for doubt in self.doubts.values():
                doubt.alone = None
        behind = self.free(True) if all_at_once else []
        again: list[Sent] = []
        for sent in reversed(left):
            if sent is guilty:
                continue
            found = self.doubts.get(sent.lane())
            if found is None:
                again.append(sent)
            else:
                found.waiting.appendleft(sent)
        again.reverse()
        return again + behind

    def recall(self, exchange: bytes) -> list[Sent]:
        """Take back what waits here for that exchange."""
        doubt = self.doubts.get(exchange)
        if doubt is None:
            return []
        waiting = list(doubt.waiting)
        doubt.waiting.clear()
        return waiting

    def take_all(self) -> list[Sent]:
        """The end: all that waits here."""
        left = [sent for doubt in self.doubts.values() for sent in doubt.waiting]
        self.doubts.clear()
        return left

    def _look_for(self, exchange: bytes, doubt: Doubt) -> None:
        doubt.looking = True
        self.lookup.ask(exchange)

    def _trust(self, lane: bytes) -> None:
        if lane.startswith(NO_EXCHANGE):
            return  # the default exchange always is
        if len(self.trusted) >= _MOST_TRUSTED:
            self.trusted = {b""}
        self.trusted.add(lane)

    def _doubt(self, lane: bytes) -> Doubt:
        doubt = self.doubts.get(lane)
        if doubt is None:
            if len(self.doubts) >= _MOST_DOUBTS:
                self._forget_idle()
            doubt = self.doubts[lane] = Doubt(0)
            self.trusted.discard(lane)
        return doubt

    def _forget_idle(self) -> None:
        for name, old in list(self.doubts.items()):
            if old.alone is None and not old.waiting and not old.looking:
                del self.doubts[name]


def exchange_in(text: str) -> bytes | None:
    """The exchange that a broker says is missing or may not be used. What stands before it may be a routing key."""
    name, found, _ = text.rpartition("exchange '")[2].partition("' in vhost '")
    if not found:
        return None
    return b"" if name == "amq.default" else name.encode("utf-8", "surrogateescape")
