"""Notices a broker that is there, and does nothing: a frozen process, a network that swallows everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

#: Seconds without a word of the broker, and without a confirm, after which it is given up.
STUCK_SECONDS: Final = 5.0
#: How much of the time between two looks counts at most, seconds; there are several in that time, unless this process
#: did not run (a busy host, a virtual machine that was moved). What the broker has said meanwhile it cannot have heard.
STEP: Final = 0.5


class Watched(Protocol):
    """What is asked of a session."""

    @property
    def started(self) -> float: ...

    @property
    def channels(self) -> Mapping[int, Any]: ...

    @property
    def amqp_stats(self) -> Any: ...


class Heard(Protocol):
    """What is asked of the connection to its broker."""

    @property
    def reads(self) -> int: ...

    @property
    def reading_paused(self) -> bool: ...


class Watchdog:
    """Looks at the broker of one session."""

    __slots__ = ("_broker", "_looked", "_reads", "_session", "_silent")

    def __init__(self, session: Watched) -> None:
        self._session = session
        #: Who was looked at, what it has said so far (:attr:`Connection.reads`), and for how long it has been so much.
        self._broker: Heard | None = None
        self._reads = 0
        self._silent = 0.0
        self._looked = session.started

    def look(self, broker: Heard, now: float) -> bool:
        """Now and then; whether it is to be given up."""
        passed, self._looked = now - self._looked, now
        deaf = broker.reading_paused or self._session.amqp_stats.blocked
        if broker is not self._broker or broker.reads != self._reads or deaf or not self._unanswered():
            self._broker = broker
            self._reads = broker.reads
            self._silent = 0.0
            return False
        self._silent += min(passed, STEP)
        return self._silent > STUCK_SECONDS

    def _unanswered(self) -> bool:
        """A publish has no confirm yet."""
        for channel in self._session.channels.values():
            confirms = channel.path.confirms
            if confirms is not None and confirms.unanswered:
                return True
        return False
