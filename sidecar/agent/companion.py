"""The app that ``sidecar exec`` starts, as the sidecar sees it: two pipes to the process that started both.

On one the sidecar says what it has come to (:data:`READY`, :data:`DRAINED`). The other one says nothing; it ends when
the app has ended, or when the process in between has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

#: The sidecar serves: the app can start. Nothing comes in any more: the app can be told to end.
READY: Final = b"r"
DRAINED: Final = b"d"


class AppProcess:
    """Implements :class:`sidecar.agent.draining.Companion`. ``tell`` and ``hear`` are the descriptors of the pipes."""

    def __init__(self, tell: int, hear: int) -> None:
        self._tell = tell
        self._hear = hear
        self._gone = asyncio.Event()

    def follow(self, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` when the app has gone, from now on."""
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if not os.read(self._hear, 64):
                loop.remove_reader(self._hear)
                self._gone.set()
                on_end()

        loop.add_reader(self._hear, heard)

    def ready(self) -> None:
        """The app may start."""
        self._say(READY)

    def inbound_drained(self) -> None:
        self._say(DRAINED)

    async def ended(self) -> None:
        await self._gone.wait()

    def _say(self, what: bytes) -> None:
        try:
            os.write(self._tell, what)
        except OSError:  # who would hear it has gone, which the other pipe tells
            pass
