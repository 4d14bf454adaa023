"""Pauses after refusals."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.amqp.replay.stream import Stream
    from sidecar.net.wheel import TimerWheel


class StreamBackoff:
    """``over`` is called with a stream and a routing key when a pause is over: that of what was not taken with this
    routing key, or, with ``None``, that of the whole stream."""

    __slots__ = ("_clock", "_entries", "_number", "_over", "_timer")

    def __init__(
        self, wheel: TimerWheel, clock: Callable[[], float], over: Callable[[Stream, str | None], None]
    ) -> None:
        self._clock = clock
        self._over = over
        #: (until when, number, stream, routing key)
        self._entries: list[tuple[float, int, Stream, str | None]] = []
        self._number = 0
        self._timer = wheel.timer(self._on_timer)

    def pause(self, stream: Stream, seconds: float) -> None:
        """Send nothing of the stream for that long."""
        stream.withdraw()
        if not stream.paused:
            stream.paused = True
            self._add(stream, None, seconds)

    def retry(self, stream: Stream, routing_key: str, seconds: float) -> None:
        """What was not taken with this routing key is to be tried again after so long."""
        self._add(stream, routing_key, seconds)

    def close(self) -> None:
        """No pause ends any more."""
        self._timer.close()

    def _add(self, stream: Stream, routing_key: str | None, seconds: float) -> None:
        until = self._clock() + seconds
        self._number += 1
        heappush(self._entries, (until, self._number, stream, routing_key))
        if until < self._timer.deadline:
            self._timer.set(until)

    def _on_timer(self) -> None:
        now = self._clock()
        entries = self._entries
        while entries and entries[0][0] <= now:
            _, _, stream, routing_key = heappop(entries)
            if routing_key is None:
                stream.paused = False
            self._over(stream, routing_key)
        if entries:
            self._timer.set(entries[0][0])
