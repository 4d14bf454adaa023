"""Streams on their way to clients: piece by piece, for as long as somebody reads them, and at most until the server
ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web

from sidecar.core.operations import Broken, Stream

logger = logging.getLogger("sidecar.admin")

#: How long a stream waits for someone to read on, seconds, at most.
STREAM_SECONDS: Final = 60.0


class Streams:
    """Those of one server that are being sent."""

    def __init__(self) -> None:
        self._sending: set[asyncio.Task[object]] = set()
        self._ending = False

    async def end(self, _: web.Application) -> None:
        """End them all at once, wherever they are: live ones as if they were over, the others are cut."""
        self._ending = True
        for task in self._sending:
            task.cancel()

    async def send(self, request: web.Request, stream: Stream) -> web.StreamResponse:
        """Answer a request with that stream."""
        response = web.StreamResponse(headers={"Content-Type": stream.media})
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            await self._pieces(request, response, stream)
        except ConnectionError:
            pass  # whoever asked has seen enough
        except asyncio.CancelledError:
            if not self._ending:
                raise
            task.uncancel()
            if stream.live and response.prepared and _read_so_far(request):
                await response.write_eof()
            else:
                _cut_off(request, "the sidecar ends")
        except Broken as error:
            _cut_off(request, str(error))
        except TimeoutError:
            _cut_off(request, f"its client has read nothing for {min(STREAM_SECONDS, stream.patience):g} s")
        finally:
            self._sending.discard(task)
            stream.close()
        return response

    async def _pieces(self, request: web.Request, response: web.StreamResponse, stream: Stream) -> None:
        await response.prepare(request)
        if request.method == "HEAD":
            return
        async for piece in stream.pieces:
            if request.transport is None:
                break  # nobody is there any more
            if not piece:
                continue
            async with asyncio.timeout(min(STREAM_SECONDS, stream.patience)):
                await response.write(piece)
        await response.write_eof()


def _read_so_far(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.get_write_buffer_size()


def _cut_off(request: web.Request, why: str) -> None:
    """End a stream before its end, so that nobody takes it for everything."""
    asked = {"client": request.remote, "method": request.method, "path": request.path[:80]}
    logger.warning("a stream was cut off: %s", why, extra=asked)
    if request.transport is not None:
        request.transport.abort()
