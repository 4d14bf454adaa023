"""A server that questions go to: connected in the background, again and again, and away in between.

Away is for a second at least, however soon it can be reached again, so that nothing changes to and fro; the attempts
have full jitter, or all sidecars would come back together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.net.causes import words_for
from sidecar.redis.connection import LOST, Connection, Then
from sidecar.redis.settings import CONNECT, Trouble
from sidecar.resilience.backoff import Backoff

#: Seconds that it is away, at least.
AWAY: Final = 1.0
#: Seconds before the first further attempt and the most, both on average twice as long as it takes.
FIRST: Final = 0.1
LONGEST: Final = 2.0
#: After so many seconds a connection was a good one: the next attempt counts as the first.
GOOD: Final = 10.0
#: Commands that wait for the very first connection.
MOST_HELD: Final = 10_000


class Node:
    """``open_connection`` finds the server, connects and sees that it can be used; it raises Trouble or OSError.
    ``changed(up, text)`` is called when the node is up or away; the first time only if it is away.

    Until the first attempt has an outcome commands are held, for ``patience`` seconds: those who ask in the first
    moments are no different from those who come later. So it is when a server has closed a connection that was idle.
    """

    def __init__(
        self,
        open_connection: Callable[[], Awaitable[Connection]],
        patience: float,
        rng: random.Random,
        changed: Callable[[bool, str], None],
    ) -> None:
        self.connection: Connection | None = None
        #: Why it is away; empty: it is not, or nobody knows yet.
        self.trouble = ""
        #: The first attempt has an outcome.
        self.answered = asyncio.Event()
        self._open = open_connection
        self._patience = patience
        self._backoff = Backoff(FIRST, LONGEST, rng)
        self._changed = changed
        self._held: deque[tuple[bytes, Then]] = deque()
        self._holding = True
        #: When it may be up again.
        self._free = 0.0
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="redis")

    @property
    def up(self) -> bool:
        """Whether commands can be sent."""
        return self.connection is not None and self.connection.stands

    def send(self, command: bytes, then: Then) -> bool:
        """As :meth:`Connection.send`."""
        connection = self.connection
        if connection is not None:
            return connection.send(command, then)
        if not self._holding or len(self._held) >= MOST_HELD:
            return False
        if not self._held:
            self._loop.call_later(self._patience, self._release)
        self._held.append((command, then))
        return True

    def lose(self, trouble: str) -> None:
        """Take what it says as a sign that another connection is needed."""
        if self.connection is not None:
            self.connection.end(trouble)

    async def close(self) -> None:
        """End the connection, and make no more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.lose("the sidecar ends")
        self._release()

    async def _run(self) -> None:
        failures = 0
        patience = CONNECT
        while True:
            try:
                async with asyncio.timeout(patience):
                    connection = await self._open()
            except TimeoutError:
                trouble = f"no connection within {patience:g} s"
            except Trouble as error:
                trouble = str(error)
            except OSError as error:
                trouble = words_for(error)
            else:
                trouble = await self._use(connection)
                if connection.stood >= GOOD:
                    failures = 0
                if connection.quiet and connection.stood >= AWAY and not self.trouble:
                    # It is no news unless there is no other connection, at once.
                    self._holding, patience = True, 2 * self._patience
                    continue
            patience = CONNECT
            self._away(trouble)
            failures += 1
            await asyncio.sleep(self._backoff.delay(failures))

    async def _use(self, connection: Connection) -> str:
        """Have commands sent over it until it ends; why it did."""
        try:
            if (rest := self._free - self._loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await connection.lost.wait()
            if not connection.lost.is_set():
                self.connection = connection
                if self.trouble:
                    self.trouble = ""
                    self._changed(True, "")
                self.answered.set()
                self._release()
                await connection.lost.wait()
        finally:
            self.connection = None
            connection.end("the sidecar ends")
        return connection.trouble

    def _away(self, trouble: str) -> None:
        news, self.trouble = not self.trouble, trouble
        if news:
            self._free = self._loop.time() + AWAY
            self._changed(False, trouble)
        self.answered.set()
        self._release()

    def _release(self) -> None:
        """Send what was held, or say that it cannot be sent."""
        self._holding = False
        held, self._held = self._held, deque()
        for command, then in held:
            if self.connection is None or not self.connection.send(command, then):
                then(LOST)
