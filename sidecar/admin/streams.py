"""Streams on their way to clients: piece by piece, for as long as somebody reads them, and at most until the server
ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sidecar.admin.connection import Connection
from sidecar.admin.request import Request
from sidecar.core.operations import Broken, Stream

logger = logging.getLogger("sidecar.admin")

#: How long a stream waits for someone to read on, seconds, at most.
STREAM_SECONDS: Final = 60.0


class Streams:
    """Those of one server that are being sent."""

    def __init__(self) -> None:
        self._sending: set[asyncio.Task[object]] = set()
        self._ending = False

    def end(self) -> None:
        """End them all at once, wherever they are: live ones as if they were over, the others are cut."""
        self._ending = True
        for task in self._sending:
            task.cancel()

    async def send(self, connection: Connection, request: Request, stream: Stream) -> None:
        """Answer a request with that stream."""
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            await _pieces(connection, request, stream)
        except ConnectionError:
            if not connection.gone:
                raise
            # Whoever asked has seen enough.
        except asyncio.CancelledError:
            if not self._ending:
                raise
            task.uncancel()
            if stream.live and _read_so_far(connection):
                connection.finish(request)
            else:
                _cut_off(connection, request, "the sidecar ends")
        except Broken as error:
            _cut_off(connection, request, str(error))
        except TimeoutError:
            why = f"its client has read nothing for {min(STREAM_SECONDS, stream.patience):g} s"
            _cut_off(connection, request, why)
        finally:
            self._sending.discard(task)
            stream.close()


async def _pieces(connection: Connection, request: Request, stream: Stream) -> None:
    connection.begin(request, {"Content-Type": stream.media})
    if request.method == "HEAD":
        return
    async for piece in stream.pieces:
        if connection.gone:
            return
        if not piece:
            continue
        async with asyncio.timeout(min(STREAM_SECONDS, stream.patience)):
            await connection.piece(request, piece)
    connection.finish(request)


def _read_so_far(connection: Connection) -> bool:
    return connection.transport is not None and not connection.transport.get_write_buffer_size()


def _cut_off(connection: Connection, request: Request, why: str) -> None:
    """End a stream before its end, so that nobody takes it for everything."""
    asked = {"client": request.client, "method": request.method, "path": request.path[:80]}
    logger.warning("a stream was cut off: %s", why, extra=asked)
    connection.abort()
