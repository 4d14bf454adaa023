"""``sidecar exec``: a sidecar and its app as one, for the entry point of a container or a service of the host.

This process starts both, passes signals on, and takes on itself what the first process of a container has to do for
orphans. The sidecar is a fork of it, made before anything heavy is imported. :mod:`sidecar.cli.supervision` decides.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.agent import signals
from sidecar.cli.supervision import ENDING, Supervision

#: What is for the app alone.
PASSED_ON: Final = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT, signal.SIGALRM,
)  # fmt: skip
_ALL: Final = (*ENDING, *PASSED_ON, signal.SIGCHLD)
#: Exit codes as shells have them: the app cannot be found; it cannot be run.
NOT_FOUND: Final = 127
NOT_RUN: Final = 126


class Processes:
    """The two processes. ``serve`` runs the sidecar, given the descriptors of its two pipes, and returns its exit code.
    Implements :class:`~sidecar.cli.supervision.Hands`."""

    def __init__(self, serve: Callable[[tuple[int, int]], int], command: Sequence[str]) -> None:
        self._serve = serve
        self._command = command
        self._selector = selectors.DefaultSelector()
        #: What the sidecar says, and what tells it that the app has gone.
        self._hears = self._lifeline = -1
        #: When it is to be woken; 0: never.
        self._wake_at = 0.0

    def run(self) -> int:
        """Run both; the exit code of the whole."""
        it = Supervision(self)
        waking, wakes = os.pipe()
        for end in (waking, wakes):
            os.set_blocking(end, False)
        for number in _ALL:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._selector.register(waking, selectors.EVENT_READ)
        signals.release()
        while it.result is None:
            timeout = max(0.0, self._wake_at - time.monotonic()) if self._wake_at else None
            for key, _ in self._selector.select(timeout):
                if key.fd == self._hears:
                    it.heard(self._read())
                    continue
                with contextlib.suppress(BlockingIOError):
                    for caught in os.read(waking, 4096):
                        if caught != signal.SIGCHLD:
                            it.signalled(caught)
            _reap(it)
            if self._wake_at and time.monotonic() >= self._wake_at:
                self._wake_at = 0.0
                it.woken()
        return it.result

    def start_sidecar(self) -> int:
        self._close_pipes()
        self._hears, tell = os.pipe()
        hear, self._lifeline = os.pipe()
        pid = os.fork()
        if not pid:
            _end_with(lambda: self._become_sidecar(tell, hear))
        for end in (tell, hear):
            os.close(end)
        os.set_blocking(self._hears, False)
        self._selector.register(self._hears, selectors.EVENT_READ)
        return pid

    def _become_sidecar(self, tell: int, hear: int) -> int:
        signals.hold()
        _as_at_first()
        os.setpgid(0, 0)  # a terminal's Ctrl-C is for the process that started it, which passes on what is due
        self._selector.close()
        for end in (self._hears, self._lifeline):
            os.close(end)
        return self._serve((tell, hear))

    def start_app(self) -> int:
        pid = os.fork()
        if not pid:
            _end_with(self._become_app)
        return pid

    def _become_app(self) -> int:
        _as_at_first()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            os.execvp(self._command[0], list(self._command))
        except OSError as error:
            print(f"sidecar exec: {self._command[0]}: {error.strerror}", file=sys.stderr)
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN

    def kill(self, pid: int, number: int) -> None:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def wake_in(self, seconds: float) -> None:
        self._wake_at = time.monotonic() + seconds

    def say(self, text: str) -> None:
        print(f"sidecar exec: {text}", file=sys.stderr, flush=True)

    def _read(self) -> bytes:
        """What the sidecar has said. Its end of the pipe ends with it, which its exit code tells."""
        try:
            said = os.read(self._hears, 4096)  # a line is written as a whole (pipe(7)), and there are few
        except BlockingIOError:
            return b""
        if not said:
            self._forget()
        return said

    def _forget(self) -> None:
        if self._hears >= 0:
            self._selector.unregister(self._hears)
            os.close(self._hears)
            self._hears = -1

    def _close_pipes(self) -> None:
        self._forget()
        self.let_go()


def execute(path: str, command: Sequence[str]) -> int:
    """Run the sidecar with the file at ``path``, and the app. Signals are expected to be held back."""

    def serve(pipes: tuple[int, int]) -> int:
        from sidecar.agent.run import run

        return run(path, pipes)

    return Processes(serve, command).run()


def _reap(it: Supervision) -> None:
    """Take note of all that has ended; orphans, too, which come to the first process of a container."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        it.ended(pid, os.waitstatus_to_exitcode(status))


def _as_at_first() -> None:
    """In a new process: signals as they were before any handler."""
    signal.set_wakeup_fd(-1)
    for number in (*_ALL, signal.SIGPIPE, signal.SIGXFSZ):  # Python itself ignores the last two
        signal.signal(number, signal.SIG_DFL)


def _end_with(work: Callable[[], int]) -> None:
    """Do that and end this process, which is a fork: nothing of what it was is to go on."""
    code = 1
    try:
        code = work()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                file.flush()
        os._exit(code)
