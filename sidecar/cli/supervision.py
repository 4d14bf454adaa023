"""What ``sidecar exec`` does about what happens to its two processes, without doing it: no process, no clock.

The sidecar serves first, then the app starts. The sidecar leaves after the app; while the app runs it is started again.
Nothing is waited for without a bound: a sidecar that does not drain, an app that does not end, a sidecar that does not
leave.
"""

from __future__ import annotations

import signal
from typing import Final, Protocol

#: What asks both to end; the first one drains.
ENDING: Final = (signal.SIGTERM, signal.SIGINT)
#: An exit code of shells: ended by a signal (128 + number).
BY_SIGNAL: Final = 128
#: Seconds before a sidecar is started again that has ended while its app runs: the first time, and at most.
AGAIN: Final = 0.2
AGAIN_MOST: Final = 10.0
#: What the sidecar says (:mod:`sidecar.agent.companion`).
READY: Final = b"ready"
DRAINED: Final = b"drained"
#: Until it has said so: seconds for its drain, and for the app's end.
DRAIN: Final = 30.0
APP: Final = 30.0
#: Seconds beyond its drain that the sidecar has for all else, before it counts as stuck.
SLACK: Final = 10.0


class Hands(Protocol):
    """What carries out what is decided here. Processes are named by their ids; 0 is none."""

    def start_sidecar(self) -> int: ...

    def start_app(self) -> int: ...

    def kill(self, pid: int, number: int) -> None:
        """Send a signal; to process 0, none."""

    def let_go(self) -> None:
        """Tell the sidecar that the app has gone: it may leave."""

    def wake_in(self, seconds: float) -> None:
        """Call :meth:`Supervision.woken` after that time, and not when it was to be called before."""

    def say(self, text: str) -> None:
        """Tell people."""


class Supervision:
    """Both processes, from their start to the exit code of the whole, :attr:`result`."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._app = 0
        #: The signal that is passed to the app once the sidecar has drained; and whether it has been.
        self._asked: int | None = None
        self._told = False
        self._pause = AGAIN
        self._drain, self._end = DRAIN, APP
        #: The app's exit code, once it has ended; before it started, the sidecar's.
        self._code: int | None = None
        self._sidecar = hands.start_sidecar()

    @property
    def result(self) -> int | None:
        """The exit code of the whole; None: it goes on."""
        return self._code if not self._sidecar else None

    def heard(self, said: bytes) -> None:
        """The sidecar has said something, in whole lines."""
        for line in said.splitlines():
            what, drain, end = line.split()
            self._drain, self._end = float(drain), float(end)
            if what == READY:
                self._pause = AGAIN
                if not self._app and self._asked is None and self._code is None:
                    self._app = self._hands.start_app()
            elif what == DRAINED:
                self._tell_app()

    def signalled(self, number: int) -> None:
        """A signal has come to this process."""
        if number not in ENDING:
            self._hands.kill(self._app, number)
        elif self._asked is not None:  # who asks twice does not wait for what drains
            self._asked = number
            self._tell_app(again=True)
        else:
            self._asked = number
            if not self._app:  # nothing depends on the sidecar
                self._hands.let_go()
            self._hands.kill(self._sidecar, signal.SIGTERM)
            self._hands.wake_in(self._drain + SLACK)
            if not self._sidecar:
                self._tell_app()

    def ended(self, pid: int, code: int) -> None:
        """A process has ended, be it one of the two or an orphan; by a signal when ``code`` is negative."""
        shown = code if code >= 0 else BY_SIGNAL - code
        if pid == self._app:
            self._app = 0
            self._code = shown
            self._hands.let_go()
            self._hands.wake_in(self._drain + SLACK)
        elif pid == self._sidecar:
            self._sidecar = 0
            if not self._app:
                self._code = shown if self._code is None else self._code
            elif self._asked is not None:
                self._tell_app()
            else:
                words = f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
                self._hands.say(f"the sidecar has ended ({words}) and is started again; its app goes on")
                self._hands.wake_in(self._pause)
                self._pause = min(2 * self._pause, AGAIN_MOST)

    def woken(self) -> None:
        """The time is over that there was for what is waited for."""
        if self._app and self._asked is None:
            if not self._sidecar:
                self._sidecar = self._hands.start_sidecar()
        elif self._app and not self._told:
            self._hands.say(f"the sidecar has not drained within {self._drain + SLACK:g} s; the app is told to end")
            self._tell_app()
        elif self._app:
            self._hands.say(
                f"the app has not ended within {self._end:g} s of {signal.Signals(self._asked or 0).name} (drain.app); "
                "it is killed"
            )
            self._hands.kill(self._app, signal.SIGKILL)
        elif self._sidecar:
            self._hands.say(f"the sidecar has not left within {self._drain + SLACK:g} s; it is killed")
            self._hands.kill(self._sidecar, signal.SIGKILL)

    def _tell_app(self, again: bool = False) -> None:
        if not self._app:
            self._hands.let_go()
        elif self._asked is not None and (again or not self._told):
            if not self._told:
                self._told = True
                self._hands.wake_in(self._end)
            self._hands.kill(self._app, self._asked)
