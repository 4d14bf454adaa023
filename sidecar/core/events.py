"""Events: what has changed about a running sidecar. Each is one line of its log, is counted by its kind, and is among
the last that :class:`Events` remembers.

Whatever changes something tells it by a plain call, from any thread; nothing waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

#: Events that are remembered.
MOST: Final = 200
#: Of one: the characters of a text, and the items of a list. The log has all of them.
MAX_TEXT: Final = 400
MAX_ITEMS: Final = 10

#: What there are events about.
KINDS: Final = (
    "admission", "app", "breaker", "broker", "canary", "check", "drain", "ejection", "endpoints", "fault", "name",
    "queue", "readmission", "ready", "redis", "registry", "reload", "reload_refused", "setting", "shortage", "spool",
    "subset",
)  # fmt: skip


class Event(NamedTuple):
    """A change: its number, from 1 on; Unix time; one of :data:`KINDS`; the upstream that it is about, or ""; a
    sentence; what else is known of it, as JSON can hold it; and how grave it is, as in the log."""

    id: int
    at: float
    kind: str
    upstream: str
    text: str
    details: Mapping[str, Any]
    level: str


class Events:
    """The last ``most`` events, and how many there were of each kind. ``wall`` is Unix time."""

    def __init__(self, most: int = MOST, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._last: deque[Event] = deque(maxlen=most)
        self._lock = threading.Lock()
        #: The number of the newest.
        self.newest = 0
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)

    def tell(
        self, logger: logging.Logger, level: int, kind: str, text: str, upstream: str = "", **details: Any
    ) -> None:
        """It has happened. ``details`` must not have the names of what a log line has anyway."""
        about = {"upstream": upstream} if upstream else {}
        logger.log(level, "%s", text, extra={"event": kind, **about, **details})
        bounded = {key: _bounded(value) for key, value in details.items()}
        with self._lock:
            self.newest += 1
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self._last.append(
                Event(
                    self.newest, self._wall(), kind, upstream, _bounded(text), bounded,
                    logging.getLevelName(level).lower(),
                )
            )  # fmt: skip

    def since(self, number: int = 0) -> Sequence[Event]:
        """Those that are remembered and are newer than the one of that number, the oldest first. A number that there
        has not been yet is of an earlier run: then all are new."""
        with self._lock:
            if number > self.newest:
                number = 0
            return [event for event in self._last if event.id > number]


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if isinstance(value, (list, tuple)):
        shown = [_bounded(item) for item in value[:MAX_ITEMS]]
        return [*shown, f"and {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else shown
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return _bounded(str(value))


#: The process's own.
EVENTS: Final = Events()
