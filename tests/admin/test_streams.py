"""Streams when the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from sidecar.admin.auth import Access
from sidecar.admin.connection_limit import Door
from sidecar.admin.server import AdminServer, Application, serve
from sidecar.core.address import Address
from sidecar.core.operations import Call, Operation, Stream

pytestmark = pytest.mark.asyncio


class Lasting:
    """A stream whose second piece never comes."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self.closed = 0

    async def handle(self, call: Call) -> Stream:
        return Stream(self._pieces(), "text/plain", self._close, live=self._live)

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    def _close(self) -> None:
        self.closed += 1


async def started(*lasting: Lasting) -> AdminServer:
    operations = [Operation("GET", f"/{i}", "", it.handle, {200: ""}) for i, it in enumerate(lasting)]
    door, bind = Door(), Address("127.0.0.1", 0)
    return await serve(Application(operations, lambda: Access("127.0.0.1"), door), bind, door)


async def test_the_end_of_the_server_ends_those_that_are_live_and_cuts_the_others() -> None:
    live, export = Lasting(True), Lasting(False)
    async with asyncio.timeout(180):
        server = await started(live, export)
        host, port = server.address
        async with (
            aiohttp.ClientSession(f"http://{host}:{port}") as client,
            client.get("/0") as whole,
            client.get("/1") as half,
        ):
            for answer in (whole, half):
                assert await answer.content.readexactly(5) == b"first"
            await server.close()
            # Not by what aiohttp does with those that take too long: that would cut this one, too.
            assert await whole.content.read() == b""
            with pytest.raises(aiohttp.ClientError):
                await half.content.read()
    assert (live.closed, export.closed) == (1, 1)


async def test_a_client_that_has_not_read_is_not_waited_for() -> None:
    class Much(Lasting):
        async def _pieces(self) -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 20)

    much = Much(True)
    async with asyncio.timeout(180):
        server = await started(much)
        reader, writer = await asyncio.open_connection(*server.address, limit=1024)
        writer.write(b"GET /0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()
        await server.close()
        writer.close()
    assert much.closed == 1
