"""The circuit breaker: stop calling what keeps failing, then find out carefully whether it is well again.

Closed lets everything through and counts failures in a row. At the threshold it opens and refuses everything for
``reset_timeout`` seconds. Then it is half-open: a fixed number of trial calls; when all of them succeed it closes,
when one fails it opens again. (Michael Nygard, *Release It!*, "Circuit Breaker".)
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from sys import maxsize
from typing import Final, Literal, NamedTuple

from sidecar.core.text import counted, timestamp

#: The states, as the metric ``sidecar_circuit_breaker_state`` gives them.
CLOSED: Final = 0
HALF_OPEN: Final = 1
OPEN: Final = 2

#: What :meth:`CircuitBreaker.retry_after` says while trial calls are under way: their end is near but unknown.
_TRIAL_WAIT: Final = 1.0
#: Seconds: the first and the longest time from open to half-open where trial calls cost nobody an answer; see
#: :attr:`CircuitBreaker.covered`.
FIRST_RESET: Final = 1.0
LONGEST_RESET: Final = 5.0
#: :attr:`CircuitBreaker.cause` of what an operator did.
BY_HAND: Final = "by hand"


class Hold(NamedTuple):
    """An operator's decision: who, why, since when and until when (Unix time; 0: until told otherwise)."""

    by: str
    reason: str
    since: float
    until: float


def held_words(mode: str, hold: Hold | None) -> str:
    """``held open by hand``, with who, why and until when, as far as that is known."""
    if hold is None:
        return f"held {mode} by hand"
    by = f" by {hold.by}" if hold.by else " by hand"
    until = f", until {timestamp(hold.until)}" if hold.until else ""
    return f"held {mode}{by}{until}{f': {hold.reason}' if hold.reason else ''}"


class CircuitBreaker:
    """One breaker: it opens after ``failure_threshold`` failures in a row, for ``reset_timeout`` seconds, and closes
    after ``half_open_requests`` trial calls that went well. ``clock`` gives seconds; ``on_change(breaker)`` is called
    after every change of state, and when a hold ends by itself, and must not raise.

    Before each try call :meth:`allow`. 0 means refused. Anything else is a token that goes back exactly once with the
    try's outcome: :meth:`success`, :meth:`failure`, or :meth:`cancel` when there is no verdict (the client left).
    Each state has a token of its own, so what was begun in an earlier state is not counted in a later one.
    """

    __slots__ = (
        "_clock",
        "_failure_threshold",
        "_generation",
        "_half_open_at",
        "_half_open_requests",
        "_hold_ends",
        "_on_change",
        "_open_total",
        "_permits",
        "_reset_timeout",
        "_row",
        "_sooner",
        "_state",
        "_successes",
        "cause",
        "covered",
        "failures",
        "forced",
        "held",
        "opened_at",
    )  # fmt: skip

    def __init__(
        self,
        failure_threshold: int,
        reset_timeout: float,
        half_open_requests: int,
        clock: Callable[[], float],
        on_change: Callable[[CircuitBreaker], None] | None = None,
    ) -> None:
        self.configure(failure_threshold, reset_timeout, half_open_requests)
        self._clock = clock
        self._on_change = on_change
        self._state = CLOSED
        self._generation = 1
        #: Failures in a row.
        self.failures = 0
        #: When it last opened (the clock's time; 0: never did).
        self.opened_at = 0.0
        #: Who decides: ``auto`` (the breaker), ``open`` or ``closed`` (an operator).
        self.forced: Literal["auto", "open", "closed"] = "auto"
        #: The operator's decision while there is one; and what has led to the present state, for people.
        self.held: Hold | None = None
        self.cause = ""
        self._half_open_at = inf
        self._hold_ends = inf
        self._open_total = 0.0
        self._permits = 0
        self._successes = 0
        #: Callers whose try fails have something else to fall back on. Then trial calls cost them little, and the
        #: breaker is half-open sooner: after :data:`FIRST_RESET` seconds, twice as many after each failed trial call,
        #: at most :data:`LONGEST_RESET`, and never later than without.
        self.covered = False
        #: How often it has opened since it was last closed.
        self._row = 0
        #: Why trial calls are made before their time.
        self._sooner = ""

    def configure(self, failure_threshold: int, reset_timeout: float, half_open_requests: int) -> None:
        """Go by other numbers from the next change of state on."""
        self._failure_threshold = failure_threshold
        self._reset_timeout = reset_timeout
        self._half_open_requests = half_open_requests

    @property
    def state(self) -> int:
        """:data:`CLOSED`, :data:`HALF_OPEN` or :data:`OPEN`, at this moment."""
        if self._state == OPEN and self._clock() >= self._half_open_at:
            return CLOSED if self.forced == "open" else HALF_OPEN
        return self._state

    def allow(self) -> int:
        """A token (≥ 1) when a try may be made, 0 when it may not."""
        if self._state != CLOSED:
            if self._state == OPEN:
                if self._clock() < self._half_open_at:
                    return 0
                if self.forced == "open":
                    self.look()
                    return self._generation
                self._enter(HALF_OPEN, f"{self._sooner or 'its time is over'}, and it is tried again")
            if not self._permits:
                return 0
            self._permits -= 1
        return self._generation

    def success(self, token: int) -> None:
        """The try that got ``token`` went well."""
        if token != self._generation:
            return
        if self._state == CLOSED:
            self.failures = 0
        else:
            self._successes += 1
            if self._successes >= self._half_open_requests:
                self.failures = 0
                self._enter(CLOSED, f"{counted(self._successes, 'trial call')} went well")

    def failure(self, token: int) -> None:
        """The try that got ``token`` failed."""
        if token != self._generation:
            return
        if self.forced != "auto":
            self.look()
            return
        self.failures += 1
        if self._state == HALF_OPEN:
            self._enter(OPEN, "a trial call failed")
        elif self.failures >= self._failure_threshold:
            self._enter(OPEN, f"{counted(self.failures, 'failure')} in a row")

    def recovered(self) -> None:
        """It is known to be well, from elsewhere: close, unless an operator has decided."""
        if self.forced == "auto" and self._state != CLOSED:
            self.failures = 0
            self._enter(CLOSED, "it is known to be well again")

    def ask(self, why: str) -> None:
        """There is reason to think that it is well again: make the trial calls now, unless an operator has decided."""
        if self.forced == "auto" and self._state == OPEN:
            self._half_open_at = min(self._half_open_at, self._clock())
            self._sooner = why

    def cancel(self, token: int) -> None:
        """The try that got ``token`` ended without a verdict; a trial call's permit is free again."""
        if token == self._generation and self._state == HALF_OPEN:
            self._permits += 1

    def room(self) -> int:
        """How many tries would be let through at this moment."""
        state = self.state
        if state == CLOSED:
            return maxsize
        if state == OPEN:
            return 0
        return self._permits if self._state == HALF_OPEN else self._half_open_requests

    def retry_after(self) -> float:
        """Seconds after which asking again makes sense; 0 when nothing is refused. While an operator keeps it open
        without saying until when, it is ``reset_timeout``."""
        if self.forced == "open":
            return self._reset_timeout if self._hold_ends == inf else max(0.0, self._hold_ends - self._clock())
        if self._state == OPEN:
            return max(0.0, self._half_open_at - self._clock())
        if self._state == HALF_OPEN and not self._permits:
            return _TRIAL_WAIT
        return 0.0

    def open_seconds(self) -> float:
        """Seconds spent open so far, in all; half-open does not count."""
        return self._open_total + self._open_now()

    def force(self, mode: Literal["open", "close", "auto"], held: Hold | None = None, seconds: float = inf) -> None:
        """Keep it ``open`` or closed (``close``; nothing is counted then) for so long, or until told ``auto``, which
        begins again: closed, with no failures. ``held`` is what is told of it. Raises :class:`ValueError` for any other
        word."""
        if mode not in ("open", "close", "auto"):
            raise ValueError(f"a circuit breaker can be forced to open, close or auto, not {mode!r}")
        self.forced = "closed" if mode == "close" else mode
        self.held = None if mode == "auto" else held
        self._hold_ends = inf if mode == "auto" else self._clock() + seconds
        self.failures = 0
        self._enter(OPEN if mode == "open" else CLOSED, BY_HAND)

    def look(self) -> None:
        """Leave it to itself again if the time for which an operator holds it is over. Calls do this when they meet
        it; who shows it to somebody should, too."""
        if self._clock() < self._hold_ends:
            return
        self.forced = "auto"
        self.held = None
        self._hold_ends = inf
        self.failures = 0
        changed = self._state != CLOSED
        self._enter(CLOSED, "the time for which it was held by hand is over")
        if not changed and self._on_change is not None:
            self._on_change(self)

    def _reset(self) -> float:
        """Seconds from now until it is half-open."""
        if not self.covered:
            return self._reset_timeout
        return min(self._reset_timeout, LONGEST_RESET, FIRST_RESET * (1 << min(self._row, 16)))

    def _open_now(self) -> float:
        """Seconds of the present open period."""
        if self._state != OPEN:
            return 0.0
        return min(self._clock(), self._half_open_at) - self.opened_at

    def _enter(self, state: int, cause: str) -> None:
        """Begin a state, the same one again too: its tokens, permits and times are new."""
        self.cause = cause
        self._open_total += self._open_now()
        before = self._state
        self._state = state
        self._generation += 1
        if state == OPEN:
            self.opened_at = self._clock()
            self._half_open_at = self._hold_ends if self.forced == "open" else self.opened_at + self._reset()
            self._row += 1
            self._sooner = ""
        elif state == HALF_OPEN:
            self._permits = self._half_open_requests
            self._successes = 0
        else:
            self._row = 0
        if state != before and self._on_change is not None:
            self._on_change(self)
