"""Tells systemd how the sidecar is: its notify protocol, sd_notify(3), a datagram of ``KEY=value`` lines to a socket of
the file system or of Linux's abstract names (unix(7)), which ``NOTIFY_SOCKET`` names.

``READY=1`` when it serves, and after each reload; ``RELOADING=1`` before, with ``MONOTONIC_USEC``, which
``Type=notify-reload`` asks for (systemd.service(5)); ``STOPPING=1``; ``STATUS=`` for people; and ``WATCHDOG=1`` twice
in ``WATCHDOG_USEC``, from the event loop's own timer: a loop that stands still says nothing (sd_watchdog_enabled(3)).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

logger = logging.getLogger("sidecar.agent")

#: Seconds that systemd has for taking a message from a queue that is full; what it has not taken then is lost.
PATIENCE: Final = 0.2
#: Microseconds of the shortest watchdog that is answered in time: below, all would be work for it.
SHORTEST: Final = 20_000


class Notifier:
    """What is said to who started this process, if it wants to hear it. ``environment``: this process's."""

    def __init__(self, environment: Mapping[str, str], pid: int | None = None) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._every = _watchdog(environment, os.getpid() if pid is None else pid) if self._address else 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say from now on that the event loop turns, if that is wanted."""
        if self._every:
            self._send("WATCHDOG=1")
            self._timer = loop.call_later(self._every, self.watch, loop)

    def close(self) -> None:
        """Say that no more."""
        if self._timer is not None:
            self._timer.cancel()

    def status(self, text: str) -> None:
        """One line for people, as ``systemctl status`` shows it."""
        self._send(_status(text))

    def ready(self, text: str) -> None:
        """It serves, or does again."""
        self._send("READY=1", _status(text))

    def reloading(self) -> None:
        """It reads its file again; what follows is :meth:`ready`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("reading its file again"))

    def stopping(self, text: str) -> None:
        """It is about to end."""
        self._send("STOPPING=1", _status(text))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(self._address)
                sock.send("\n".join(lines).encode("utf-8", "replace"))
        except OSError as error:
            if not self._failed:  # once: the watchdog's would repeat it for ever
                logger.warning("systemd cannot be told how this is (NOTIFY_SOCKET): %s", error)
            self._failed = True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


def _address(text: str) -> str:
    """As the socket module wants it; empty: there is none."""
    if text[:1] == "/":
        return text
    if text[:1] == "@":
        return "\0" + text[1:]
    if text:
        logger.warning("NOTIFY_SOCKET is %s, which is neither a path nor an abstract name; nothing is told", text[:100])
    return ""


def _watchdog(environment: Mapping[str, str], pid: int) -> float:
    """Seconds between two signs of life, half of what systemd waits for; 0: it does not."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    if not text.isdecimal() or int(text) < SHORTEST:
        logger.warning("WATCHDOG_USEC is %s, not a number of microseconds from %d; ignored", text[:100], SHORTEST)
        return 0.0
    return int(text) / 2e6
