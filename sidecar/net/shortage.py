"""What this host may run out of: descriptors, ports, memory for sockets. No endpoint is blamed for it; what is idle is
given up first, and accepting pauses until there is room again.

A reserve is kept back. Accepting stops before it, dialling for traffic in the middle of it: so those who are in can be
served, and the admin API, the registry and health checks go on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from sidecar.core.events import EVENTS

logger = logging.getLogger("sidecar.shortage")

_T = TypeVar("_T")

#: Descriptors that are not for accepted connections: an eighth of the limit, and this many at most.
RESERVE: Final = 64
#: Seconds between two looks for free descriptors while accepting is paused; and between two lines about a shortage.
LOOK_SECONDS: Final = 0.1
QUIET_SECONDS: Final = 60.0
#: Idle connections that are given up at each such look, at most.
BATCH: Final = 16

_LACKING: Final = {
    errno.EMFILE: "descriptors (the process's limit is {limit}; raise it: ulimit -n, or LimitNOFILE= of systemd)",
    errno.ENFILE: "descriptors (the system's limit; raise it: sysctl fs.file-max)",
    errno.ENOBUFS: "buffers for sockets (see sysctl net.ipv4.tcp_mem)",
    errno.ENOMEM: "memory",
    errno.EADDRNOTAVAIL: "local ports (widen sysctl net.ipv4.ip_local_port_range, or add endpoints)",
}


class Pausable(Protocol):
    """What accepts connections."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Shortage:
    """The process's own. ``limit`` is how many descriptors it may have."""

    def __init__(self, limit: Callable[[], int] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit or _descriptors
        self._clock = clock
        self._probe = -1
        self._paused = False
        self._reported: dict[int, float] = {}
        #: What accepts; and what can close a connection that nobody needs now, and says whether there was one: kept
        #: ones to upstreams, then clients'.
        self.accepting: dict[Pausable, None] = {}
        self.kept: dict[Callable[[], bool], None] = {}
        self.idle: dict[Callable[[], bool], None] = {}

    @property
    def pairs(self) -> int:
        """How many relayed connections there may be, with a descriptor for each of the two ends, and the reserve
        left."""
        limit = self._limit()
        return max(1, (limit - _reserve(limit)) // 2)

    # -- dialling ------------------------------------------------------------------------------------------------------

    async def dial(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What ``attempt`` returns, a connection for traffic. When it fails for want of something here, what is idle is
        given up and it is tried once more. Raises :class:`OSError`; see :func:`is_local`."""
        try:
            self._leave_reserve()
            return await attempt()
        except OSError as error:
            if not is_local(error) or not self.relieve(ports=error.errno == errno.EADDRNOTAVAIL):
                raise
        await asyncio.sleep(0.005)  # the loop closes what was given up
        self._leave_reserve()
        return await attempt()

    def relieve(self, ports: bool = False) -> bool:
        """Give up a connection that nobody needs now; whether there was one. Clients' have no local port of their
        own."""
        return any(give_up() for give_up in (self.kept if ports else (*self.kept, *self.idle)))

    def met(self, error: OSError) -> None:
        """Say what is lacking and what to do about it; once in a while, however often it happens."""
        number = error.errno or 0
        now = self._clock()
        if now - self._reported.get(number, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._reported[number] = now
            lacking = _LACKING.get(number, "something").format(limit=self._limit())
            EVENTS.tell(
                logger, logging.WARNING, "shortage",
                f"out of {lacking}; idle connections are given up, and what needs a new one is refused",
            )  # fmt: skip

    def _leave_reserve(self) -> None:
        limit = self._limit()
        if self._next() >= limit - _reserve(limit) // 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    # -- accepting -----------------------------------------------------------------------------------------------------

    def accepted(self, descriptor: int) -> bool:
        """A connection was accepted under that number: the lowest that was free. When there are few left, make room or
        pause. Whether it may stay: loops accept all who wait at once, and the last of those could take the whole
        reserve."""
        limit = self._limit()
        reserve = _reserve(limit)
        if descriptor < limit - reserve:
            return True
        if not self._paused:
            self.met(OSError(errno.EMFILE, ""))
            # Of so many that one for each is not enough, none would be given up any more once nobody can come in.
            if not self.relieve() or descriptor >= limit - reserve // 2:
                self._pause()
        return descriptor < limit - reserve // 4

    def _pause(self) -> None:
        """Whoever connects now waits in the kernel's queue."""
        self._paused = True
        for acceptor in self.accepting:
            acceptor.pause()
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        limit = self._limit()
        # Each that accepts needs one again, and some for clients.
        if self._next(3 * len(self.accepting)) >= limit - _reserve(limit):
            for _ in range(BATCH):
                if not self.relieve():
                    break
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
            return
        self._paused = False
        for acceptor in self.accepting:
            acceptor.resume()

    def _next(self, count: int = 1) -> int:
        """The number that the last of so many new descriptors would have. They get the lowest numbers that are free."""
        found: list[int] = []
        try:
            if self._probe < 0:
                self._probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            found.extend(os.dup(self._probe) for _ in range(count))
            return found[-1] if found else 0
        except OSError:
            return self._limit()
        finally:
            for descriptor in found:
                os.close(descriptor)


def is_local(error: BaseException | None) -> bool:
    """Whether a connection failed for want of something on this host, which says nothing about its peer."""
    return isinstance(error, OSError) and error.errno in _LACKING


def plain(error: OSError, host: str, port: int) -> OSError:
    """The error of a connection to that address, said plainly. Where this host has no address from which it could be
    reached, that is reported as a port that is not available, too. UDP is asked, which sends nothing for that."""
    if error.errno != errno.EADDRNOTAVAIL:
        return error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
    except OSError as found:
        if found.errno == errno.EADDRNOTAVAIL:
            return OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    return error


def _descriptors() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 1 << 30


def _reserve(limit: int) -> int:
    return min(RESERVE, limit // 8)


#: The process's.
SHORTAGE: Final = Shortage()
