"""The connections: one for each user and virtual host that messages have to be sent with."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.publisher.connection import READY, Publisher
from sidecar.amqp.replay.publisher_slot import Line, Login
from sidecar.amqp.wire.client_handshake import Dialler, own_properties
from sidecar.amqp.wire.constants import CONNECTION_FORCED, REPLY_SUCCESS, AmqpError
from sidecar.resilience.backoff import Backoff

if TYPE_CHECKING:
    from sidecar.amqp.monitor.connection import Report
    from sidecar.amqp.replay.outcomes import Outcomes
    from sidecar.amqp.replay.stream import KeyReplay
    from sidecar.net.wheel import TimerWheel

#: Connections at once.
_MOST_LINES: Final = 32
#: Seconds: for a connection that has nothing to do; until a login that was refused is tried again; and the shortest
#: pause before the next try to connect.
IDLE: Final = 30.0
REFUSED_AGAIN: Final = 30.0
_SHORTEST_PAUSE: Final = 0.05


class Lines:
    """Makes connections, tries again with growing pauses, and ends those with nothing to do. ``login`` and ``connect``
    are :class:`~sidecar.amqp.replay.dispatcher.Replayer`'s; ``outcomes`` hears what becomes of messages, ``released``
    of keys that have waited and may go on, ``lost`` of a connection that is gone, with what it has not answered."""

    __slots__ = (
        "_alarmed", "_backoff", "_call_soon", "_clock", "_connect", "_lines", "_login", "_lost", "_name", "_outcomes",
        "_released", "_report", "_timer", "_wheel", "on_alarm",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        login: Callable[[str, str], Login | None],
        connect: Callable[[Publisher], None],
        wheel: TimerWheel,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        report: Report,
        outcomes: Outcomes,
        released: Callable[[list[KeyReplay]], None],
        lost: Callable[[Line, list[object]], None],
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
        self._lines: dict[tuple[str, str], Line] = {}
        #: Those that the broker blocks; who is told when there are some, and when there are none any more.
        self._alarmed: set[Line] = set()
        self.on_alarm: Callable[[bool], None] | None = None
        self._timer = wheel.timer(self.look)

    def find(self, vhost: str, user: str) -> Line | None:
        """The connection for a user, which is the account's if they are the same; ``None``: its login is not known, or
        there are too many connections."""
        line = self._lines.get((vhost, user))
        if line is None:
            if user:
                login = self._login(vhost, user)
                if login is None:
                    return None
                own = self._lines.get((vhost, ""))
                account = self._login(vhost, "") if own is None or own.login is None else own.login
                if account is not None and login.same(account):
                    return own or self.find(vhost, "")
                if len(self._lines) >= _MOST_LINES:
                    return None
            line = self._lines[vhost, user] = Line(self, self._outcomes, vhost, user)
        return line

    def may_log_in(self, vhost: str, user: str) -> bool:
        """Whether that user can be tried, for the first time or again."""
        line = self.find(vhost, user)
        return line is not None and not line.rejected

    def dial(self, line: Line) -> None:
        """Make its connection, if there is none and it is time."""
        if line.publisher is not None:
            return
        now = self._clock()
        if now < line.retry_at:
            self._look_at(line.retry_at)
            return
        login = self._login(line.vhost, line.user)
        if login is None:
            self._fails(line, "there is no account to publish with", REFUSED_AGAIN, now)
            return
        line.login = login
        properties = own_properties(f"sidecar {self._name}: spool")
        dialler = Dialler(login.mechanism, login.response, line.vhost, properties)
        line.publisher = Publisher(
            dialler, line, self._wheel, self._clock, self._call_soon, wary=line.wary, looks=line.looks
        )
        line.idle_since = inf
        self._connect(line.publisher)

    def flush(self) -> None:
        """Write what has been collected on all of them."""
        for line in self._lines.values():
            publisher = line.publisher
            if publisher is not None:
                publisher.flush()

    def try_again(self, rejected: bool = False) -> None:
        """Wait no longer for the next try; those that were ``rejected``, too."""
        for line in list(self._lines.values()):
            if rejected:
                line.rejected = False
            if not line.rejected:
                line.retry_at = 0.0
                self._released(line.release())

    def stop(self) -> None:
        """Make no more connections by itself."""
        self._timer.close()

    def say_goodbye(self) -> None:
        """End all connections."""
        for line in list(self._lines.values()):
            if line.publisher is not None:
                line.publisher.close("the sidecar is shutting down")

    @property
    def connected(self) -> bool:
        """There is a connection, or one is being made."""
        return any(line.publisher is not None for line in self._lines.values())

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """Those that cannot be made: virtual host, user, why."""
        return [(line.vhost, line.user, line.problem) for line in self._lines.values() if line.problem]

    # -- what becomes of a connection ----------------------------------------------------------------------------------

    def now(self) -> float:
        """The time of the clock."""
        return self._clock()

    def works(self, line: Line) -> None:
        """Messages can be given to it."""
        self._report.good(line.source)
        self._released(line.release())

    def blocked(self, line: Line, on: bool) -> None:
        """The broker has an alarm, or none any more."""
        before = bool(self._alarmed)
        if on:
            self._alarmed.add(line)
        else:
            self._alarmed.discard(line)
        if before != bool(self._alarmed) and self.on_alarm is not None:
            self.on_alarm(not before)
        if not on:
            self.works(line)

    def lost(self, line: Line, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        """Its connection is gone."""
        now = self._clock()
        if line in self._alarmed:
            self._alarmed.discard(line)
            if not self._alarmed and self.on_alarm is not None:
                self.on_alarm(False)
        if error.code != REPLY_SUCCESS or left:
            worked = line.failures == 0 and not line.problem
            line.failures = max(line.failures, 0) + 1
            line.rejected = publisher.permanent
            pause = REFUSED_AGAIN if line.rejected else max(_SHORTEST_PAUSE, self._backoff.delay(line.failures))
            if worked and error.code != CONNECTION_FORCED:
                line.retry_at = now + pause  # because of a message, not of the broker
            else:
                where = f" ({publisher.endpoint})" if publisher.endpoint else ""
                self._fails(line, f"{error.text}{where}", pause, now)
        self._lost(line, left)
        self._released(line.release())

    def _fails(self, line: Line, problem: str, seconds: float, now: float) -> None:
        line.problem = problem
        line.retry_at = now + seconds
        self._report.bad(line.source, problem, f"what is in the spool waits: {problem}")
        if line.awaited:
            self._look_at(line.retry_at)

    # -- time ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """See to those whose time has come."""
        now = self._clock()
        for line in list(self._lines.values()):
            publisher = line.publisher
            if publisher is None:
                self._look_after_lost(line, now)
            elif publisher.unanswered or publisher.stage != READY or line.awaited:
                line.idle_since = inf
            elif line.idle_since == inf:
                line.idle_since = now
            elif now - line.idle_since >= IDLE:
                publisher.close()

    def _look_after_lost(self, line: Line, now: float) -> None:
        if now < line.retry_at:
            if line.awaited:
                self._look_at(line.retry_at)
            return
        line.rejected = False
        if line.awaited:
            self.dial(line)
        else:
            del self._lines[line.vhost, line.user]
            self._report.gone(line.source)

    def _look_at(self, when: float) -> None:
        if when < self._timer.deadline:
            self._timer.set(when)
