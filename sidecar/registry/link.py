"""Whether a registry answers: what ``up`` and ``age`` report, and the log lines about it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sidecar.core.events import EVENTS
from sidecar.resilience.token_bucket import TokenBucket

log = logging.getLogger("sidecar.registry")


def describe(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error)[:1000].split()) or ("no answer in time" if isinstance(error, TimeoutError) else "")
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


class Link:
    """Keeps the state of every *source*, a loop that talks to the registry (one per watch, one for the registration).

    The registry is up while no source fails. Only changes are logged, the first source to fail with a kind of
    error speaks for the others, and even changes are limited to a few lines a minute. ``on_return`` is called with
    the first source that gets an answer after the registry could not be reached.
    """

    def __init__(
        self, name: str, clock: Callable[[], float], on_return: Callable[[str], None] = lambda source: None
    ) -> None:
        self._name = name
        self._clock = clock
        self._on_return = on_return
        self._failing: dict[str, str] = {}
        self._answered = False
        self._away = False
        self._last = clock()
        self._since = 0.0
        self._lines = TokenBucket(0.1, 6, clock())

    @property
    def up(self) -> bool:
        """Whether there was an answer, and none of the sources fails."""
        return self._answered and not self._failing

    @property
    def age(self) -> float:
        """Seconds since the last good answer (or since the start); 0 while up."""
        return 0.0 if self.up else self._clock() - self._last

    def ok(self, source: str) -> None:
        """The registry answered this source."""
        self._last = self._clock()
        self._answered = True
        if self._failing.pop(source, None) is not None and not self._failing:
            self._tell(
                logging.INFO, True, f"registry {self._name} answers again after {self._last - self._since:.1f} s"
            )
        if self._away:
            self._away = False
            self._on_return(source)

    def failed(self, source: str, error: BaseException, *, away: bool = True) -> None:
        """An exchange of this source failed; ``away``: without any answer."""
        self._away |= away
        kind = type(error).__name__
        if self._failing.get(source) == kind:
            return
        first = not self._failing
        known = kind in self._failing.values()
        self._failing[source] = kind
        text = f"registry {self._name}: {source} failed: {describe(error)}; what is known stays in use, trying again"
        if first:
            self._since = self._clock()
            self._tell(logging.WARNING, False, text)
        else:
            log.log(self._level(logging.DEBUG if known else logging.WARNING), "%s", text)

    def gone(self, source: str) -> None:
        """This source ended and has no say any more."""
        self._failing.pop(source, None)

    def _tell(self, level: int, up: bool, text: str) -> None:
        EVENTS.tell(log, self._level(level), "registry", text, up=up)

    def _level(self, level: int) -> int:
        """That, while there are not too many lines."""
        return logging.DEBUG if self._lines.take(self._clock()) else level
