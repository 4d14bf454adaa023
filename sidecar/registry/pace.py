"""How fast a background loop may turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sidecar.resilience.token_bucket import TokenBucket


class Pace:
    """Lets a loop turn ``rate`` times a second on average and ``burst`` times at once. ``clock`` gives seconds."""

    __slots__ = ("_bucket", "_clock")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._bucket = TokenBucket(rate, burst, clock())
        self._clock = clock

    async def turn(self) -> None:
        """Wait until the next turn is allowed."""
        delay = self._bucket.take(self._clock())
        while delay:
            await asyncio.sleep(delay)
            delay = self._bucket.take(self._clock())
