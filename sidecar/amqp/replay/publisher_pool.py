"""The connections: one for each user and virtual host that messages have to be sent with."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.publisher.connection import READY, Publisher
from sidecar.amqp.replay.publisher_slot import PublisherSlot, SaslLogin
from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties
from sidecar.amqp.wire.constants import CONNECTION_FORCED, REPLY_SUCCESS, AmqpError
from sidecar.resilience.backoff import Backoff

if TYPE_CHECKING:
    from sidecar.amqp.monitor.connection import TroubleLog
    from sidecar.amqp.replay.outcomes import Outcomes
    from sidecar.amqp.replay.stream import Stream
    from sidecar.net.wheel import TimerWheel

#: Connections at once.
_MOST_LINES: Final = 32
#: Seconds: for a connection that has nothing to do; until a login that was refused is tried again; and the shortest
#: pause before the next try to connect.
IDLE: Final = 30.0
REFUSED_AGAIN: Final = 30.0
_SHORTEST_PAUSE: Final = 0.05


class PublisherPool:
    """Makes connections, tries again with growing pauses, and ends those with nothing to do. ``login`` and ``connect``
    are :class:`~sidecar.amqp.replay.dispatcher.Dispatcher`'s; ``outcomes`` hears what becomes of messages, ``released``
    of streams that have waited and may go on, ``lost`` of a connection that is gone, with what it has not answered."""

    __slots__ = (
        "_alarmed",
        "_backoff",
        "_call_soon",
        "_clock",
        "_connect",
        "_login",
        "_lost",
        "_name",
        "_outcomes",
        "_released",
        "_report",
        "_slots",
        "_timer",
        "_wheel",
        "on_alarm",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        login: Callable[[str, str], SaslLogin | None],
        connect: Callable[[Publisher], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        report: TroubleLog,
        outcomes: Outcomes,
        released: Callable[[list[Stream]], None],
        lost: Callable[[PublisherSlot, list[object]], None],
    ) -> None:
        self._name = name
        self._login = login
        self._connect = connect
        self._wheel = wheel
        self._clock = clock
        self._call_soon = call_soon
        self._report = report
        self._outcomes = outcomes
        self._released = released
        self._lost = lost
        self._backoff = Backoff(0.5, 10.0, random.Random())
        self._slots: dict[tuple[str, str], PublisherSlot] = {}
        #: Those that the broker blocks; who is told when there are some, and when there are none any more.
        self._alarmed: set[PublisherSlot] = set()
        self.on_alarm: Callable[[bool], None] | None = None
        self._timer = wheel.timer(self.look)

    def find(self, vhost: str, user: str) -> PublisherSlot | None:
        """The connection for a user, which is the account's if they are the same; ``None``: its login is not known, or
        there are too many connections."""
        slot = self._slots.get((vhost, user))
        if slot is None:
            if user:
                login = self._login(vhost, user)
                if login is None:
                    return None
                own = self._slots.get((vhost, ""))
                account = self._login(vhost, "") if own is None or own.login is None else own.login
                if account is not None and login.same(account):
                    return own or self.find(vhost, "")
                if len(self._slots) >= _MOST_LINES:
                    return None
            slot = self._slots[vhost, user] = PublisherSlot(self, self._outcomes, vhost, user)
        return slot

    def may_log_in(self, vhost: str, user: str) -> bool:
        """Whether that user can be tried, for the first time or again."""
        slot = self.find(vhost, user)
        return slot is not None and not slot.rejected

    def dial(self, slot: PublisherSlot) -> None:
        """Make its connection, if there is none and it is time."""
        if slot.publisher is not None:
            return
        now = self._clock()
        if now < slot.retry_at:
            self._look_at(slot.retry_at)
            return
        login = self._login(slot.vhost, slot.user)
        if login is None:
            self._fails(slot, "there is no account to publish with", REFUSED_AGAIN, now)
            return
        slot.login = login
        properties = own_properties(f"sidecar {self._name}: spool")
        handshake = ClientHandshake(login.mechanism, login.response, slot.vhost, properties)
        slot.publisher = Publisher(
            handshake, slot, self._wheel, self._clock, self._call_soon, wary=slot.wary, looks=slot.looks
        )
        slot.idle_since = inf
        self._connect(slot.publisher)

    def flush(self) -> None:
        """Write what has been collected on all of them."""
        for slot in self._slots.values():
            publisher = slot.publisher
            if publisher is not None:
                publisher.flush()

    def try_again(self, rejected: bool = False) -> None:
        """Wait no longer for the next try; those that were ``rejected``, too."""
        for slot in list(self._slots.values()):
            if rejected:
                slot.rejected = False
            if not slot.rejected:
                slot.retry_at = 0.0
                self._released(slot.release())

    def stop(self) -> None:
        """Make no more connections by itself."""
        self._timer.close()

    def say_goodbye(self) -> None:
        """End all connections."""
        for slot in list(self._slots.values()):
            if slot.publisher is not None:
                slot.publisher.close("the sidecar is shutting down")

    @property
    def connected(self) -> bool:
        """There is a connection, or one is being made."""
        return any(slot.publisher is not None for slot in self._slots.values())

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """Those that cannot be made: virtual host, user, why."""
        return [(slot.vhost, slot.user, slot.problem) for slot in self._slots.values() if slot.problem]

    # -- what becomes of a connection ----------------------------------------------------------------------------------

    def now(self) -> float:
        """The time of the clock."""
        return self._clock()

    def works(self, slot: PublisherSlot) -> None:
        """Messages can be given to it."""
        self._report.good(slot.source)
        self._released(slot.release())

    def blocked(self, slot: PublisherSlot, on: bool) -> None:
        """The broker has an alarm, or none any more."""
        before = bool(self._alarmed)
        if on:
            self._alarmed.add(slot)
        else:
            self._alarmed.discard(slot)
        if before != bool(self._alarmed) and self.on_alarm is not None:
            self.on_alarm(not before)
        if not on:
            self.works(slot)

    def lost(self, slot: PublisherSlot, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        """Its connection is gone."""
        now = self._clock()
        if slot in self._alarmed:
            self._alarmed.discard(slot)
            if not self._alarmed and self.on_alarm is not None:
                self.on_alarm(False)
        if error.code != REPLY_SUCCESS or left:
            worked = slot.failures == 0 and not slot.problem
            slot.failures = max(slot.failures, 0) + 1
            slot.rejected = publisher.permanent
            pause = REFUSED_AGAIN if slot.rejected else max(_SHORTEST_PAUSE, self._backoff.delay(slot.failures))
            if worked and error.code != CONNECTION_FORCED:
                slot.retry_at = now + pause  # because of a message, not of the broker
            else:
                where = f" ({publisher.endpoint})" if publisher.endpoint else ""
                self._fails(slot, f"{error.text}{where}", pause, now)
        self._lost(slot, left)
        self._released(slot.release())

    def _fails(self, slot: PublisherSlot, problem: str, seconds: float, now: float) -> None:
        slot.problem = problem
        slot.retry_at = now + seconds
        self._report.bad(slot.source, problem, f"what is in the spool waits: {problem}")
        if slot.awaited:
            self._look_at(slot.retry_at)

    # -- time ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """See to those whose time has come."""
        now = self._clock()
        for slot in list(self._slots.values()):
            publisher = slot.publisher
            if publisher is None:
                self._look_after_lost(slot, now)
            elif publisher.unanswered or publisher.stage != READY or slot.awaited:
                slot.idle_since = inf
            elif slot.idle_since == inf:
                slot.idle_since = now
            elif now - slot.idle_since >= IDLE:
                publisher.close()

    def _look_after_lost(self, slot: PublisherSlot, now: float) -> None:
        if now < slot.retry_at:
            if slot.awaited:
                self._look_at(slot.retry_at)
            return
        slot.rejected = False
        if slot.awaited:
            self.dial(slot)
        else:
            del self._slots[slot.vhost, slot.user]
            self._report.gone(slot.source)

    def _look_at(self, when: float) -> None:
        if when < self._timer.deadline:
            self._timer.set(when)
