"""What is started in the background of a shell ignores Ctrl-C, and so would all that the tests start."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Have the signals of a terminal mean what they mean to who starts a program by hand."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
