"""Ends a server of asyncio without losing a connection that it is just accepting."""

from __future__ import annotations

import asyncio


async def stop_accepting(server: asyncio.Server) -> None:
    """Accept no more, let what has been accepted become connections, then close the server.

    One that closes while it accepts leaves the accepted socket open for ever: ``Server._attach`` raises in the making
    of the transport."""
    loop = asyncio.get_running_loop()
    for sock in server.sockets:
        loop.remove_reader(sock.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()
