"""A Redis server in the hands of a test, in its own event loop; and names that need no server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Self

from sidecar.core.address import Address
from sidecar.net.lookup import Answer, LookupFailed
from sidecar.redis.resp import Reader, Reply, encode

OK = b"+OK\r\n"


def number(value: int) -> bytes:
    """A reply."""
    return b":%d\r\n" % value


def words(*texts: str) -> bytes:
    """A list as a reply, which is written like a command."""
    return encode(*texts)


def taken(granted: int, again: float = 0.0) -> bytes:
    """What the script that takes tokens returns."""
    text = str(int(again * 1e6)).encode()
    return b"*2\r\n:%d\r\n$%d\r\n%b\r\n" % (granted, len(text), text)


class FakeRedis:
    """``replies`` gives the bytes of a reply to a command, ``b""``: none; what it does not know (``None``) is answered
    as by a server that is well. ``heard`` are all commands."""

    def __init__(self, replies: Callable[[list[str]], bytes | None] = lambda command: None) -> None:
        self.replies = replies
        self.heard: list[list[str]] = []
        self.connections: set[asyncio.StreamWriter] = set()
        #: How many there have been.
        self.accepted = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def said(self, name: str) -> list[list[str]]:
        """The commands of that name."""
        return [it for it in self.heard if it[0] == name]

    async def stop(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def close_idle(self) -> None:
        """Close all connections in an orderly way."""
        for writer in list(self.connections):
            writer.close()

    def cut(self) -> None:
        """End all connections, and not in an orderly way: with a reset."""
        for writer in list(self.connections):
            if (sock := writer.get_extra_info("socket")) is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        self.accepted += 1
        commands = Reader()
        try:
            while data := await reader.read(65536):
                for command in commands.feed(data):
                    writer.write(self._reply(command))
        except (OSError, asyncio.CancelledError):
            pass  # its connection, or the test, is over
        finally:
            self.connections.discard(writer)
            writer.close()

    def _reply(self, command: Reply) -> bytes:
        assert isinstance(command, list)
        heard = [it.decode() for it in command if isinstance(it, bytes)]
        self.heard.append(heard)
        found = self.replies(heard)
        if found is not None:
            return found
        if heard[0] in ("EVAL", "EVALSHA"):
            # The one that takes tokens has three arguments, the other two.
            return taken(int(heard[6])) if len(heard) == 7 else number(1)
        return words("master") if heard[0] == "ROLE" else OK


class FakeNames:
    """A resolver that knows some names."""

    def __init__(self, **known: str) -> None:
        self._known = known

    def known(self, name: str) -> Answer | None:
        return None

    async def resolve(self, name: str) -> Answer:
        if name not in self._known:
            raise LookupFailed("there is no such name", missing=True)
        return Answer((self._known[name],), 60.0)

    async def close(self) -> None: ...


class Told:
    """Remembers what it is called with."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, *what: Any) -> None:
        self.all.append(what[0] if len(what) == 1 else what)
