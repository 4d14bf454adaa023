"""Makes the connections of publishers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sidecar.core.address import Address
from sidecar.net.dial import dial
from sidecar.net.shortage import SHORTAGE, is_local

if TYPE_CHECKING:
    from sidecar.amqp.publisher.connection import Publisher


class Connector:
    """To the broker's addresses in turn, one for each that is asked for."""

    __slots__ = ("_addresses", "_loop", "_tasks", "_turn")

    def __init__(self, addresses: Callable[[], Sequence[tuple[str, int]]], loop: asyncio.AbstractEventLoop) -> None:
        self._addresses = addresses
        self._loop = loop
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, publisher: Publisher) -> None:
        """Begin; :meth:`Publisher.failed` is called, but not from within, when it comes to nothing."""
        task = self._loop.create_task(self._connect(publisher))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up what has not come to anything yet."""
        for task in self._tasks:
            task.cancel()

    async def _connect(self, publisher: Publisher) -> None:
        addresses = self._addresses()
        if not addresses:
            publisher.failed("no broker is known, or none is well")
            return
        self._turn += 1
        host, port = addresses[self._turn % len(addresses)]
        publisher.endpoint = f"{host}:{port}"
        try:
            await dial(self._loop, publisher, Address(host, port))
        except OSError as error:
            if is_local(error):
                SHORTAGE.met(error)
            publisher.failed(f"cannot connect: {error.strerror or type(error).__name__}")
