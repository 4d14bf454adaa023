"""A small service of the validation's own: instances on loopback ports, which can be made to fail."""

from __future__ import annotations

import asyncio
from typing import Final

#: Bytes of a request's head; the temporary sidecar sends far less.
_MAX_HEAD: Final = 64 * 1024


class Instance:
    """One instance. It answers any GET with its name; ``failing``: with 500."""

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.weight = weight
        self.port = 0
        self.failing = False
        #: Requests that came in.
        self.asked = 0
        self.connections: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Listen, again at the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Listen no longer, and cut what is connected."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for transport in tuple(self.connections):
            transport.abort()

    def answer(self) -> bytes:
        body = self.name.encode()
        status = b"500 Internal Server Error" if self.failing else b"200 OK"
        return b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


class _Connection(asyncio.Protocol):
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._instance.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._instance.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Requests have no body, so each ends with its head."""
        assert self._transport is not None
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        if len(self._rest) > _MAX_HEAD:
            self._transport.abort()
            return
        for _ in heads:
            self._instance.asked += 1
            self._transport.write(self._instance.answer())
