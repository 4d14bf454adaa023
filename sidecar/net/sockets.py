"""What asyncio's transports do not offer."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import sys
import termios
from typing import Any, Final

#: Linger for 0 seconds: closing sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)
#: Linux's request for the bytes in a socket's send queue that were not sent even once.
_SIOCOUTQNSD: Final = 0x894B
#: Two segments on common networks: what a host may have received and not acknowledged yet.
_LATE_BYTES: Final = 2920
#: Seconds of silence until the kernel asks whether the peer's host still lives; how often, and how many seconds apart.
#: So a host that is gone is noticed within a minute and a half.
KEEPALIVE_SECONDS: Final = 45
_PROBES: Final = 3
_PROBE_SECONDS: Final = 15
_KEEPALIVE: Final = tuple(
    (getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS), ("TCP_KEEPINTVL", _PROBE_SECONDS), ("TCP_KEEPCNT", _PROBES),
    )
    if hasattr(socket, name)
)  # fmt: skip
#: The most that is read at once.
_READ: Final = 262144


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset. A mere ``abort()`` sends a FIN when everything was read, and the peer would take what it has
    got for the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # closed already
    transport.abort()


def broken(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection, also while nobody reads from it."""
    sock = transport.get_extra_info("socket")
    try:
        return sock is None or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return True


def keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel find out whether the peer's host still lives while nothing is said, and end the connection if it
    does not: after :data:`KEEPALIVE_SECONDS` of silence it asks, and a few times more."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        set_keepalive(sock)


def set_keepalive(sock: Any) -> None:
    """The same for a socket, or what stands for one; accepted sockets have the options of the one that listens."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # the peer has left in this very moment; or the kernel keeps its own times


def undelivered(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the peer's host has not acknowledged: those in the transport's buffer, and the
    kernel's (``SIOCOUTQ``, tcp(7)). While it falls, a slow reader is at work, and there is no silence. A little that
    has been sent counts as delivered: hosts acknowledge that late (RFC 9293 §3.8.6.3)."""
    buffered = transport.get_write_buffer_size()
    if transport.is_closing() and not buffered:
        return 0  # its descriptor may be somebody else's by now
    sock = transport.get_extra_info("socket")
    if sock is None:
        return buffered  # what takes the place of a client in this process
    try:
        fd = sock.fileno()
        queued = _queued(fd, termios.TIOCOUTQ)
        if queued <= _LATE_BYTES and not _queued(fd, _SIOCOUTQNSD):
            queued = 0
    except OSError:
        return buffered  # not every system has it for sockets
    return buffered + queued


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the kernel was given and that the peer's host has not acknowledged; also from ``connection_lost``,
    when the transport has dropped its own buffer."""
    sock = transport.get_extra_info("socket")
    try:
        return 0 if sock is None else _queued(sock.fileno(), termios.TIOCOUTQ)
    except OSError:
        return 0


def _queued(fd: int, request: int) -> int:
    answer = bytearray(4)
    fcntl.ioctl(fd, request, answer)
    return int.from_bytes(answer, sys.byteorder)


def unread(transport: asyncio.Transport) -> list[bytes]:
    """What the peer had said before the connection broke, for a protocol's ``connection_lost``. After a failed write a
    transport closes without looking at what it has received; the kernel still has it, until the socket is closed, and
    nothing can come after it. So this is bounded by the socket's receive buffer."""
    pieces: list[bytes] = []
    sock = transport.get_extra_info("socket")
    if sock is None:
        return pieces
    errors = 0
    while True:
        try:
            data = os.read(sock.fileno(), _READ)
        except BlockingIOError:
            return pieces
        except OSError:
            errors += 1
            if errors > 1:  # the first may be the news of the reset itself, which hides nothing
                return pieces
            continue
        if not data:
            return pieces
        pieces.append(data)


class Pausable:
    """A protocol whose reading can be paused and resumed at any time: twice, or after its transport has begun to close,
    where transports raise or read on.

    Not derived from :class:`asyncio.Protocol`, which adds nothing to the methods that a loop calls: a class that is
    compiled cannot have a base that is not.
    """

    __slots__ = ("reading_paused", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.reading_paused = False

    def pause_reading(self) -> None:
        """Read nothing until :meth:`resume_reading`."""
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, if it was paused."""
        if self.reading_paused:
            self.reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
