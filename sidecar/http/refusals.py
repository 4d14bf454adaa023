"""Lines of the access log about what was refused before it became an exchange: requests that are malformed or over the
limits, and connections that there is no room for.

Anybody can send such requests, as many as they like: so there are only so many lines a second, and then one that says
how many had none. Of what was sent, a line has the method and the path, where they could be read; nothing else of it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.records import AccessRecord
from sidecar.core.replies import STATUS
from sidecar.core.text import counted, printable

if TYPE_CHECKING:
    from sidecar.core.records import AccessLog
    from sidecar.core.stats import ListenerStats
    from sidecar.net.wheel import TimerWheel

logger = logging.getLogger("sidecar.http")

#: Lines in a period, and its length in seconds.
MOST: Final = 10
PERIOD: Final = 1.0
#: The longest path and the longest reason of a line, in characters.
MAX_TEXT: Final = 200
#: A method and, where it is one, a path without its query. What is no token or no path may be anything, a secret too.
_BEGINNING: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[^ \r\n?#]{0,1024})?")


class Refusals:
    """One listener's."""

    def __init__(
        self, log: AccessLog, stats: ListenerStats, wheel: TimerWheel, clock: Callable[[], float], listener: str
    ) -> None:
        self._log: Any = log
        self._stats = stats
        self._clock = clock
        self._listener = listener
        #: When the period began, how many lines it has, and how many refusals had none.
        self._since = -PERIOD
        self._lines = 0
        self._untold = 0
        self._timer = wheel.timer(self._tell)

    def add(self, code: str, message: str, client: str, request_id: str, data: bytes) -> None:
        """A client is answered that code and message; ``data`` is what has come of its request."""
        status = STATUS[code]
        if not self._log.enabled_for(status, code):
            return
        now = self._clock()
        if now - self._since >= PERIOD:
            self._tell()
            self._since = now
            self._lines = 0
        if self._lines >= MOST:
            if not self._untold:
                self._timer.set(self._since + PERIOD)
            self._untold += 1
            return
        self._lines += 1
        method, path = beginning(data)
        self._log.record(
            AccessRecord(
                time=time.time(),
                direction=self._stats.direction,
                upstream=self._listener,
                method=method,
                target=path,
                status=status,
                error=code,
                duration=0.0,
                bytes_in=0,
                bytes_out=0,
                endpoint=None,
                attempts=0,
                client=client,
                request_id=request_id,
                trace_id=None,
                reason=printable(message, MAX_TEXT),
            )
        )

    def close(self) -> None:
        """Say what is left to say."""
        self._tell()
        self._timer.close()

    def _tell(self) -> None:
        if not self._untold:
            return
        self._timer.cancel()
        logger.warning(
            "%s %s left out of the access log",
            counted(self._untold, "refused request"),
            "was" if self._untold == 1 else "were",
            extra={"upstream": self._listener, "direction": self._stats.direction, "left_out": self._untold},
        )
        self._untold = 0


def beginning(data: bytes) -> tuple[str, str]:
    """The method and the path of a request that could not be parsed; empty: it does not begin like one."""
    found = _BEGINNING.match(data)
    if found is None:
        return "", ""
    return found[1].decode(), printable((found[2] or b"").decode("latin-1"), MAX_TEXT)
