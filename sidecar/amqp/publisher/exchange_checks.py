"""Which exchanges may be published to without care.

unknown ─ looked for ─> trusted ─ a message closed the channel ─> one by one ─ enough answers ─> trusted
              └ missing: refused                  └ 404: looked for

With the default exchange, that is so for each queue (see :meth:`Sent.lane`); it need not be looked for.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sidecar.amqp.publisher.passive_declare import PassiveDeclare
from sidecar.amqp.publisher.unconfirmed import NO_EXCHANGE, Sent

#: The most answers that an exchange has to earn before it is trusted again.
LONGEST_CHECK: Final = 256
#: How many exchanges are remembered, in doubt and trusted.
_MOST_DOUBTS: Final = 256
_MOST_TRUSTED: Final = 10_000
_MOST_STRUCK: Final = 1000


class ExchangeCheck:
    """An exchange, or a queue, whose messages wait here. ``needed`` is how many answers it takes until it is trusted:
    as long as it is not 0, they are sent one by one, as one of them closed the channel."""

    __slots__ = ("alone", "looking", "needed", "waiting")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        #: It is being looked for; nothing is sent meanwhile.
        self.looking = False
        self.alone: Sent | None = None
        self.waiting: deque[Sent] = deque()


class ExchangeChecks:
    """The exchanges of one connection, and which of them are trusted. ``looks``: they are looked for before they are
    first used. ``apart``: what goes one by one goes over a channel of its own."""

    __slots__ = ("_strikes", "apart", "checks", "looks", "passive_declare", "trusted")

    def __init__(self, looks: bool) -> None:
        self.looks = looks
        self.apart = False
        self.passive_declare = PassiveDeclare()
        #: The default exchange is always there.
        self.trusted = {b""}
        #: By exchange or queue; and how many messages of each were refused.
        self.checks: dict[bytes, ExchangeCheck] = {}
        self._strikes: dict[bytes, int] = {}

    @property
    def busy(self) -> bool:
        """There are such that are not trusted, or there is something to say about them."""
        return bool(self.checks) or self.passive_declare.due

    def holds(self, sent: Sent) -> bool:
        """The turn of a message has come; ``True``: its exchange or queue is not trusted, so it waits here until
        :meth:`free` or :meth:`next` gives it back."""
        exchange = sent.exchange()
        if not self.checks and exchange in self.trusted:
            return False
        lane = sent.lane()
        check = self.checks.get(lane)
        if check is None:
            if exchange in self.trusted:
                return False
            if not self.looks:
                self._trust(exchange)
                return False
            check = self._check(lane)
            self._look_for(exchange, check)
        if self.apart or check.looking or check.alone is not None or check.waiting:
            check.waiting.append(sent)
            return True
        check.alone = sent
        return False

    def free(self, all_at_once: bool) -> list[Sent]:
        """What may go now. ``all_at_once``: somebody else sees to it that they go one by one."""
        free: list[Sent] = []
        for lane, check in list(self.checks.items()):
            if check.looking or (self.apart and check.alone is not None):
                continue
            if check.needed <= 0 or all_at_once:
                del self.checks[lane]
                self._trust(lane)
                free.extend(check.waiting)
            elif not self.apart and check.alone is None and check.waiting:
                check.alone = check.waiting.popleft()
                free.append(check.alone)
        return free

    def next(self) -> Sent | None:
        """The next one for the channel apart."""
        for lane, check in self.checks.items():
            if check.needed > 0 and not check.looking and check.alone is None and check.waiting:
                check.alone = sent = check.waiting.popleft()
                del self.checks[lane]  # to the end of the line
                self.checks[lane] = check
                return sent
        return None

    def again(self, sent: Sent) -> None:
        """What was on its way there is to be sent again."""
        check = self.checks.get(sent.lane())
        if check is not None:
            check.alone = None
            check.waiting.appendleft(sent)

    def answered(self, sent: Sent) -> None:
        """The broker has answered this one; others may be free now."""
        check = self.checks.get(sent.lane())
        if check is not None and check.alone is sent:
            check.alone = None
            check.needed -= 1

    # -- missing -------------------------------------------------------------------------------------------------------

    def found(self, exchange: bytes) -> None:
        """It is there, or at least nobody says that it is not."""
        check = self.checks.get(exchange)
        if check is not None:
            check.looking = False

    def count(self, exchange: bytes) -> int:
        """How many of its messages wait."""
        check = self.checks.get(exchange)
        return 0 if check is None else len(check.waiting)

    def take(self, exchange: bytes) -> Sent | None:
        """The first of those, taken out."""
        check = self.checks.get(exchange)
        return check.waiting.popleft() if check is not None and check.waiting else None

    def missed(self, exchange: bytes) -> None:
        """It is not there. The next message for it makes us look again."""
        check = self.checks.get(exchange)
        if check is None:
            return
        if check.waiting:
            self.passive_declare.ask(exchange)
        else:
            del self.checks[exchange]

    # -- when one of its messages is no good ---------------------------------------------------------------------------

    def suspect(self, lane: bytes, needed: int) -> None:
        """One of its messages has closed the channel, and nobody knows which of so many."""
        check = self._check(lane)
        check.needed = max(check.needed, needed)

    def strike(self, sent: Sent) -> None:
        """This message was no good. If there are many of them, trying one by one at once costs less than finding out
        anew each time; so each one makes for twice as many answers until there is trust again."""
        lane = sent.lane()
        strikes = self._strikes.pop(lane, 0)
        check = self._check(lane)
        check.needed = max(check.needed, min(1 << strikes, LONGEST_CHECK))
        if check.alone is sent:
            check.alone = None
        if len(self._strikes) >= _MOST_STRUCK:
            del self._strikes[next(iter(self._strikes))]
        self._strikes[lane] = min(strikes + 1, 16)

    def vanished(self, exchange: bytes) -> None:
        """It was missing when something was published to it."""
        self.trusted.discard(exchange)
        check = self.checks.get(exchange)
        if self.looks and check is not None and not check.looking:
            self._look_for(exchange, check)

    def put_back(self, left: list[Sent], guilty: Sent | None, all_at_once: bool) -> list[Sent]:
        """What was on its way, but for the ``guilty`` one, is to be sent again, before all that waits: what of it
        does not wait here. ``all_at_once`` as in :meth:`free`."""
        if not self.apart:
            for check in self.checks.values():
                check.alone = None
        behind = self.free(True) if all_at_once else []
        again: list[Sent] = []
        for sent in reversed(left):
            if sent is guilty:
                continue
            found = self.checks.get(sent.lane())
            if found is None:
                again.append(sent)
            else:
                found.waiting.appendleft(sent)
        again.reverse()
        return again + behind

    def recall(self, exchange: bytes) -> list[Sent]:
        """Take back what waits here for that exchange."""
        check = self.checks.get(exchange)
        if check is None:
            return []
        waiting = list(check.waiting)
        check.waiting.clear()
        return waiting

    def take_all(self) -> list[Sent]:
        """The end: all that waits here."""
        left = [sent for check in self.checks.values() for sent in check.waiting]
        self.checks.clear()
        return left

    def _look_for(self, exchange: bytes, check: ExchangeCheck) -> None:
        check.looking = True
        self.passive_declare.ask(exchange)

    def _trust(self, lane: bytes) -> None:
        if lane.startswith(NO_EXCHANGE):
            return  # the default exchange always is
        if len(self.trusted) >= _MOST_TRUSTED:
            self.trusted = {b""}
        self.trusted.add(lane)

    def _check(self, lane: bytes) -> ExchangeCheck:
        check = self.checks.get(lane)
        if check is None:
            if len(self.checks) >= _MOST_DOUBTS:
                self._forget_idle()
            check = self.checks[lane] = ExchangeCheck(0)
            self.trusted.discard(lane)
        return check

    def _forget_idle(self) -> None:
        for name, old in list(self.checks.items()):
            if old.alone is None and not old.waiting and not old.looking:
                del self.checks[name]


def exchange_in(text: str) -> bytes | None:
    """The exchange that a broker says is missing or may not be used. What stands before it may be a routing key."""
    name, found, _ = text.rpartition("exchange '")[2].partition("' in vhost '")
    if not found:
        return None
    return b"" if name == "amq.default" else name.encode("utf-8", "surrogateescape")
