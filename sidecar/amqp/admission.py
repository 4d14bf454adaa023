"""Whether a port takes clients at all.

One that cannot serve them refuses their connections, as the broker's port does when nobody listens there: all clients
take that for an outage and come again. What is said to them in the handshake, ``connection.close`` with 320 included,
many take for a refusal of their login (pika, bunny, Java and what is built on it, Go), and some then give up for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.core.events import EVENTS

if TYPE_CHECKING:
    from sidecar.net.listen import Acceptor

logger = logging.getLogger("sidecar.amqp")

#: Why it may be shut.
DRAINING: Final = "draining"
NO_BROKER: Final = "no_broker"
OVERLOADED: Final = "overloaded"
REASONS: Final = (DRAINING, NO_BROKER, OVERLOADED)

#: Seconds between two lines of log about one reason: a port may be full, and not, many times a second.
QUIET_SECONDS: Final = 60.0


class Admission:
    """One port's. It is shut while there are ``reasons``: one of :data:`REASONS` → words for people."""

    __slots__ = ("_acceptor", "_announced", "_clock", "_logged", "_name", "reasons")

    def __init__(self, name: str, acceptor: Acceptor, clock: Callable[[], float]) -> None:
        self._name = name
        self._acceptor = acceptor
        self._clock = clock
        self.reasons: dict[str, str] = {}
        #: Reason → when that was last logged; and those of which the log does not know yet that they are gone.
        self._logged: dict[str, float] = {}
        self._announced: set[str] = set()

    def shut(self, reason: str, words: str) -> None:
        """Refuse clients, for this reason too. Nothing happens where it is one already."""
        if reason in self.reasons:
            return
        self.reasons[reason] = words
        if len(self.reasons) == 1:
            self._acceptor.shut()
        now = self._clock()
        if now - self._logged.get(reason, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._logged[reason] = now
            self._announced.add(reason)
            self._tell(logging.WARNING, reason, f"AMQP clients are refused: {words}")

    def open(self, reason: str) -> None:
        """That reason is gone."""
        if self.reasons.pop(reason, None) is None:
            return
        if not self.reasons:
            self._acceptor.reopen()
        if reason in self._announced:
            self._announced.remove(reason)
            self._tell(logging.INFO, reason, "AMQP clients are no longer refused")

    def _tell(self, level: int, reason: str, text: str) -> None:
        EVENTS.tell(logger, level, "broker" if reason == NO_BROKER else "admission", text, self._name, reason=reason)
