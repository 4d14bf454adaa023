"""The app that ``sidecar exec`` starts, as the sidecar sees it: two pipes to the process that started both.

On one the sidecar says what it has come to (:data:`READY`, :data:`DRAINED`), a word and its times to a line. The other
one says nothing; it ends when the app has ended, or when the process in between has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.config.agent import Drain

#: The sidecar serves: the app can start. Nothing comes in any more: the app can be told to end. Behind each: the
#: seconds that draining takes at most, and those that the app then has (``drain`` of the configuration).
READY: Final = b"ready"
DRAINED: Final = b"drained"


class AppProcess:
    """Implements :class:`sidecar.agent.draining.Companion`. ``tell`` and ``hear`` are the descriptors of the pipes;
    ``config`` gives the times of now."""

    def __init__(self, tell: int, hear: int, config: Callable[[], Drain]) -> None:
        self._tell = tell
        self._config = config
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
        times = self._config()
        try:
            os.write(self._tell, b"%s %.3f %.3f\n" % (what, times.delay + times.timeout, times.app))
        except OSError:  # who would hear it has gone, which the other pipe tells
            pass
