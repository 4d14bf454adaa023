"""What ``sidecar exec`` does about what happens to its two processes, without doing it: no process, no clock.

The sidecar serves first, then the app starts. The sidecar leaves after the app; while the app runs it is started again.
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
READY: Final = b"r"
DRAINED: Final = b"d"


class Hands(Protocol):
    """What carries out what is decided here. Processes are named by their ids; 0 is none."""

    def start_sidecar(self) -> int: ...

    def start_app(self) -> int: ...

    def kill(self, pid: int, number: int) -> None:
        """Send a signal; to process 0, none."""

    def let_go(self) -> None:
        """Tell the sidecar that the app has gone: it may leave."""

    def again_in(self, seconds: float) -> None:
        """Call :meth:`Supervision.again` after that time."""

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
        #: The app's exit code, once it has ended; before it started, the sidecar's.
        self._code: int | None = None
        self._sidecar = hands.start_sidecar()

    @property
    def result(self) -> int | None:
        """The exit code of the whole; None: it goes on."""
        return self._code if not self._sidecar else None

    def heard(self, said: bytes) -> None:
        """The sidecar has said something."""
        if READY in said:
            self._pause = AGAIN
            if not self._app and self._asked is None and self._code is None:
                self._app = self._hands.start_app()
        if DRAINED in said:
            self._tell_app()

    def signalled(self, number: int) -> None:
        """A signal has come to this process."""
        if number not in ENDING:
            self._hands.kill(self._app, number)
        elif self._asked is not None:  # who asks twice does not wait for what drains
            self._asked, self._told = number, False
            self._tell_app()
        else:
            self._asked = number
            if not self._app:  # nothing depends on the sidecar
                self._hands.let_go()
            self._hands.kill(self._sidecar, signal.SIGTERM)
            if not self._sidecar:
                self._tell_app()

    def ended(self, pid: int, code: int) -> None:
        """A process has ended, be it one of the two or an orphan; by a signal when ``code`` is negative."""
        shown = code if code >= 0 else BY_SIGNAL - code
        if pid == self._app:
            self._app = 0
            self._code = shown
            self._hands.let_go()
        elif pid == self._sidecar:
            self._sidecar = 0
            if not self._app:
                self._code = shown if self._code is None else self._code
            elif self._asked is not None:
                self._tell_app()
            else:
                words = f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
                self._hands.say(f"the sidecar has ended ({words}) and is started again; its app goes on")
                self._hands.again_in(self._pause)
                self._pause = min(2 * self._pause, AGAIN_MOST)

    def again(self) -> None:
        """Start the sidecar again, unless there is no use for it any more."""
        if self._app and self._asked is None and not self._sidecar:
            self._sidecar = self._hands.start_sidecar()

    def _tell_app(self) -> None:
        if not self._app:
            self._hands.let_go()
        elif self._asked is not None and not self._told:
            self._told = True
            self._hands.kill(self._app, self._asked)
