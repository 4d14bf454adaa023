"""Pauses after refusals."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.amqp.replay.stream import KeyReplay
    from sidecar.net.wheel import TimerWheel


class Rests:
    """``over`` is called with a key and a routing key when a pause is over: that of what was not taken with this
    routing key, or, with ``None``, that of the whole key."""

    __slots__ = ("_clock", "_entries", "_number", "_over", "_timer")

    def __init__(
        self, wheel: TimerWheel, clock: Callable[[], float], over: Callable[[KeyReplay, str | None], None]
    ) -> None:
        self._clock = clock
        self._over = over
        #: (until when, number, key, routing key)
        self._entries: list[tuple[float, int, KeyReplay, str | None]] = []
        self._number = 0
        self._timer = wheel.timer(self._on_timer)

    def pause(self, key: KeyReplay, seconds: float) -> None:
        """Send nothing of the key for that long."""
        key.withdraw()
        if not key.paused:
            key.paused = True
            self._add(key, None, seconds)

    def retry(self, key: KeyReplay, routing_key: str, seconds: float) -> None:
        """What was not taken with this routing key is to be tried again after so long."""
        self._add(key, routing_key, seconds)

    def close(self) -> None:
        """No pause ends any more."""
        self._timer.close()

    def _add(self, key: KeyReplay, routing_key: str | None, seconds: float) -> None:
        until = self._clock() + seconds
        self._number += 1
        heappush(self._entries, (until, self._number, key, routing_key))
        if until < self._timer.deadline:
            self._timer.set(until)

    def _on_timer(self) -> None:
        now = self._clock()
        entries = self._entries
        while entries and entries[0][0] <= now:
            _, _, key, routing_key = heappop(entries)
            if routing_key is None:
                key.paused = False
            self._over(key, routing_key)
        if entries:
            self._timer.set(entries[0][0])
