"""Signals that come before anybody is there to act on them.

A process is killed by SIGHUP, and by most others, until it has said what they are to do; and as the first one of a
container (PID 1) it never hears of SIGTERM. So ``sidecar run`` holds them back with its first line, and lets them come
once its event loop has handlers: what came meanwhile is acted on then, once for each kind.

This imports nothing that takes time, on purpose. What comes before, while the interpreter itself starts (some 50 ms on
a quiet machine), nobody can hold back; where that matters, let a container have an init (``docker run --init``).
"""

from __future__ import annotations

import signal
from typing import Final

#: What a running sidecar has handlers for.
HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold() -> None:
    """Keep signals waiting, also those that the parent process had us ignore."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def asked_to_end() -> bool:
    """Whether one that ends a sidecar is waiting."""
    return not signal.sigpending().isdisjoint((signal.SIGTERM, signal.SIGINT))


def release() -> None:
    """Let them come, to the handlers that stand now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def ignore(number: signal.Signals) -> None:
    """At the end, which is bounded, nothing that comes is to spoil the exit code. To hold it back is not enough: once
    the interpreter has given up its handlers, it would reach a thread that holds nothing back, as libraries have."""
    signal.signal(number, signal.SIG_IGN)
