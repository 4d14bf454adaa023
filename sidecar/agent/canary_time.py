"""What time it is for a canary, and how something is done later; tests bring their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any


class Timing:
    """Clocks and timers: ``clock`` never goes back, ``wall`` is Unix time, ``later`` calls in so many seconds,
    ``spawn`` lets a coroutine run by itself."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        later: Callable[[float, Callable[[], None]], Any] | None = None,
        spawn: Callable[[Coroutine[Any, Any, None]], Any] | None = None,
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.later = later or (lambda seconds, do: asyncio.get_running_loop().call_later(seconds, do))
        self.spawn = spawn or asyncio.ensure_future
