"""Asks a broker for the depth of one queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.amqp.monitor.connection import MonitorConnection, describe, end

if TYPE_CHECKING:
    from aio_pika import Connection
    from aiormq.abc import AbstractChannel

    from sidecar.amqp.monitor.watcher import Watcher

#: How often a queue is asked for that is nearly full or over its limit, seconds.
URGENT: Final = 0.05
#: How long an answer may take before the connection is given up, and how old the last one may be before the depth
#: counts as unknown, seconds.
ANSWER_SECONDS: Final = 2.0
UNKNOWN_AFTER: Final = 2.0
#: How soon a queue is asked for again that cannot be watched, seconds: when a client has declared it, the first times,
#: and then (each time is an error in the broker's log).
MISSING_SOON: Final = 0.05
MISSING_AGAIN: Final = 2.0
MISSING_LONG: Final = 10.0
_SOON: Final = 10

Key = tuple[str, str]


class QueueWatch:
    """Asks for one queue's depth, over and over."""

    def __init__(self, watcher: Watcher, link: MonitorConnection, key: Key) -> None:
        self._watcher = watcher
        self._link = link
        self._key = key
        self._source = f"watching queue {key[1]} of vhost {key[0]}"
        #: When the broker last answered about it.
        self._heard = watcher.now()
        self._missed = 0
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"amqp {self._source}")

    def hurry(self) -> None:
        """Ask soon: the queue may be nearly full."""
        self._wake.set()

    def there(self) -> None:
        """It may not be missing any more."""
        if self._missed:
            self._wake.set()

    async def close(self) -> None:
        await end(self._task)
        self._watcher.report.gone(self._source)

    async def _run(self) -> None:
        while True:
            connection = await self._connection()
            try:
                await self._ask(connection)
            except asyncio.CancelledError:
                if cancelled():
                    raise
                # aiormq cancels whoever waits on a connection that is closed.
                self._link.drop(connection, ConnectionError("it was closed"))
            except Exception as error:
                problem = self._trouble(error)
                if not problem:
                    self._link.drop(connection, error)
                    continue
                self._watcher.unknown(self._key, problem)
                self._watcher.report.bad(
                    self._source, problem, f"{problem}; its depth is not known, nothing is held for it"
                )
                self._missed += 1
                await self._pause()

    async def _connection(self) -> Connection:
        """Wait for one; meanwhile the depth becomes unknown."""
        patience = max(0.0, self._heard + UNKNOWN_AFTER - self._watcher.now())
        while True:
            try:
                async with asyncio.timeout(patience):
                    return await self._link.connection()
            except TimeoutError:
                self._watcher.unknown(self._key, f"no connection to the broker: {self._link.problem}")
                patience = UNKNOWN_AFTER

    async def _ask(self, connection: Connection) -> None:
        """Ask as long as it works."""
        async with asyncio.timeout(ANSWER_SECONDS):
            opened = await connection.channel(publisher_confirms=False)
        try:
            channel = await opened.get_underlay_channel()
            while True:
                await self._sample(channel)
        finally:
            if not opened.is_closed:
                self._link.background(opened.close())

    async def _sample(self, channel: AbstractChannel) -> None:
        watcher = self._watcher
        asked_at = watcher.now()
        answer = await channel.queue_declare(self._key[1], passive=True, timeout=ANSWER_SECONDS)
        self._heard = self._link.heard = watcher.now()
        self._missed = 0
        watcher.report.good(self._source)
        self._wake.clear()
        urgent = watcher.sampled(self._key, answer.message_count or 0, answer.consumer_count or 0, asked_at)
        due = asked_at + (URGENT if urgent else watcher.interval)
        while (rest := due - watcher.now()) > 0.0:
            await self._sleep(rest)
            due = min(due, asked_at + URGENT)

    async def _pause(self) -> None:
        """The time until a queue is asked for again that could not be."""
        await asyncio.sleep(MISSING_SOON)
        await self._sleep((MISSING_AGAIN if self._missed < _SOON else MISSING_LONG) - MISSING_SOON)

    async def _sleep(self, seconds: float) -> None:
        """So long at most, until somebody is in a hurry."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()

    def _trouble(self, error: Exception) -> str:
        """Why just this queue cannot be asked for; empty: the error is about the connection."""
        from aiormq import exceptions

        now = self._watcher.now()
        if isinstance(error, TimeoutError):
            # A quorum queue without its majority does not answer, and the others do.
            return "no answer in time" if now - self._link.heard < ANSWER_SECONDS else ""
        if not isinstance(error, exceptions.ChannelClosed):
            return ""
        self._heard = self._link.heard = now
        if isinstance(error, exceptions.ChannelNotFoundEntity) and "no queue" in str(error):
            return "no such queue"
        if isinstance(error, exceptions.ChannelAccessRefused):
            return "no permission to ask for it"
        if isinstance(error, exceptions.ChannelLockedResource):
            return "it is exclusive to another connection"
        return f"the broker refuses to tell: {describe(error)}"


def cancelled() -> bool:
    """Whether it is us who are cancelled, and not what we wait for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
