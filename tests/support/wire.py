"""A wire between a sidecar and a broker that can be cut, and mended, in no time: to lose a broker costs a test nothing
then. What is not durable survives in the broker, though, as it only loses its clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Self

from support.accepting import stop_accepting
from support.processes import free_port

_LARGEST = 1 << 18

#: Is told which connection it is (they are numbered), whether it was the side that dialled that spoke, and what it
#: said; nothing: that side has ended.
Watch = Callable[[int, bool, bytes], None]


class Wire:
    """Passes bytes from ``port`` to 127.0.0.1:``to`` and back, over as many connections as there are. ``watch`` sees
    them before they go on."""

    def __init__(self, to: int, watch: Watch | None = None) -> None:
        self.to = to
        self._watch = watch or (lambda number, upwards, data: None)
        self.port = free_port()
        #: Connections so far.
        self.count = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """All connections end, as if the broker's machine had been restarted, and none can be made."""
        self._do(self._cut())

    def mend(self) -> None:
        """There is a way again."""
        self._do(self._mend())

    def freeze(self) -> None:
        """Nothing passes; the connections stay, and can even be made."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def thaw(self) -> None:
        """Everything goes on."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _mend(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accepted, "127.0.0.1", self.port, start_serving=False
            )  # so that it is known before the first connection
            await self._server.start_serving()

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await stop_accepting(server)
        self._flows.set()
        tasks = [*self._serving, *self._pumps]
        for task in tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called as soon as there is a connection, so that none is unknown to :meth:`cut`."""
        if self._server is None:
            writer.transport.abort()  # cut while it was being accepted
            return
        self.count += 1
        self._writers.add(writer)
        task = self._loop.create_task(self._serve(self.count, reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(back)
        for source, target, upwards in ((reader, back, True), (there, writer, False)):
            pump = self._loop.create_task(self._pump(source, target, partial(self._watch, number, upwards)))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, watch: Callable[[bytes], None]
    ) -> None:
        with suppress(OSError):
            while data := await source.read(_LARGEST):
                await self._flows.wait()
                watch(data)
                target.write(data)
                await target.drain()
        watch(b"")
        self._writers.discard(target)
        target.close()
