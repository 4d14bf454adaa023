"""Listening sockets whose accepting can be paused without losing who connects meanwhile, or who connects is refused."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

#: Connections that wait to be accepted, at most.
BACKLOG: Final = 1024
#: Loopback in both families, whatever a hosts file says of localhost.
LOOPBACK: Final = "loopback"
_LOOPBACK: Final = ("127.0.0.1", "::1")
#: Tries to find a port that is free for all addresses.
TRIES: Final = 10


class Acceptor:
    """Accepts on ``host`` and ``port`` with ``factory``'s protocols. The loop's servers get copies of the sockets, so a
    pause closes only those: the kernel goes on taking connections into the queue. One that is held does the same from
    its start on. Being shut is another thing than a pause, and both may be so at once: nobody listens then, so the
    kernel answers with a reset."""

    def __init__(self, loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = loop
        self._factory = factory
        self.sockets: list[socket.socket] = []
        self._servers: list[Any] = []
        self._held = False
        self._paused = False
        self._shut = False
        self._resuming: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Bind and accept. Raises :class:`OSError`."""
        self.sockets = await bind(self._loop, host, port)
        try:
            if self._held or self._paused:
                self._go_on()
            elif not self._shut:
                await self._serve()
        except BaseException:
            self.close()
            raise

    async def _serve(self) -> None:
        for sock in self.sockets:
            copy = sock.dup()
            try:
                server = await self._loop.create_server(self._factory, sock=copy, backlog=BACKLOG)
            except BaseException:
                copy.close()
                raise
            self._servers.append(server)

    def hold(self) -> None:
        """Accept nothing yet, however often it is resumed; who connects waits."""
        self._held = True
        self._stop_serving()

    def release(self) -> None:
        """It need not be held any more."""
        self._held = False
        self._go_on()

    def pause(self) -> None:
        """Accept nothing more; who connects waits."""
        self._paused = True
        self._stop_serving()

    def resume(self) -> None:
        """Accept again."""
        self._paused = False
        self._go_on()

    def shut(self) -> None:
        """Refuse connections, those that wait in the queue too. The port stays bound."""
        self._shut = True
        self._stop_serving()
        for sock in self.sockets:
            # Linux: it no longer listens, and can again. To do that to one that does not listen would stay with it, and
            # with whatever it accepts later.
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def is_shut(self) -> bool:
        """Whether connections are refused."""
        return self._shut

    def reopen(self) -> None:
        """Listen again."""
        self._shut = False
        self._go_on()

    def _go_on(self) -> None:
        if self._shut or self._servers or self._resuming is not None:
            return
        if self._held or self._paused:
            for sock in self.sockets:
                sock.listen(BACKLOG)
        elif self.sockets:
            self._resuming = self._loop.create_task(self._resume())

    async def _resume(self) -> None:
        try:
            await self._serve()
        except OSError:
            self._stop_serving()
            self._loop.call_later(1.0, self._go_on)
        finally:
            self._resuming = None
        if self._shut:  # meanwhile
            self.shut()
        elif self._held or self._paused:
            self._stop_serving()

    def _stop_serving(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Stop listening."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._stop_serving()
        for sock in self.sockets:
            sock.close()
        self.sockets = []


async def bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of ``host``, all to one port. ``::`` is all addresses of both families, and
    :data:`LOOPBACK` both of loopback; each has a socket of its own, so that clients have the addresses they are known
    by. A family that this host lacks is left out where there is another. Raises :class:`OSError`."""
    found: list[Any] = []
    everywhere = ":" in host and not host.strip(":0")
    for name in ("0.0.0.0", "::") if everywhere else _LOOPBACK if host == LOOPBACK else (host,):
        found += await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for tries_left in reversed(range(TRIES if port == 0 else 1)):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _bind_all(addresses: Sequence[tuple[int, Any]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                lacking = error
                continue
            sockets.append(sock)
            # Port 0 is chosen once, for all of them.
            chosen = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            try:
                _bind(sock, family, (address[0], chosen, *address[2:]))
                if not chosen:
                    # Linux keeps a port for a socket that has ceased to listen only if it was asked for by number.
                    chosen = sock.getsockname()[1]
                    sock.close()
                    sock = sockets[0] = socket.socket(family, socket.SOCK_STREAM)
                    _bind(sock, family, (address[0], chosen, *address[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                lacking = error
                sockets.pop().close()
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if lacking is not None and not sockets:
        raise lacking
    return sockets


def _bind(sock: socket.socket, family: int, address: Any) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
