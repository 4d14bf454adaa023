"""What asyncio's transports do not offer."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

#: Linger for 0 seconds: closing sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)


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
