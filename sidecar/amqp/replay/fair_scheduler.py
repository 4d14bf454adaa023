"""Who may send next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.replay.stream import Stream

#: How many messages a stream sends in one turn, and how many are sent before others on this loop have theirs.
_TURN: Final = 16
_AT_ONCE: Final = 500


class FairScheduler:
    """Streams that have something to send have turns of a few messages; those whose next message has the highest
    priority have theirs first. ``send_next`` does what is to be done with a stream's next message (``False``: it has to
    wait), ``had_turn`` is called with a stream after its turn, and ``round_over`` when all have had theirs or enough
    was sent."""

    __slots__ = (
        "_call_soon", "_clock", "_had_turn", "_heap", "_number", "_round_over", "_send_next", "_woken", "running"
    )  # fmt: skip

    def __init__(
        self,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        send_next: Callable[[Stream, float], bool],
        had_turn: Callable[[Stream], None],
        round_over: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._call_soon = call_soon
        self._send_next = send_next
        self._had_turn = had_turn
        self._round_over = round_over
        #: (−priority of the next, number of the turn, stream)
        self._heap: list[tuple[int, int, Stream]] = []
        self._number = 0
        self._woken = False
        #: There are turns at all.
        self.running = False

    def offer(self, stream: Stream) -> None:
        """It has its turn, if it has something to send."""
        if stream.ready and not stream.queued:
            self._number += 1
            stream.queued = True
            heappush(self._heap, (-stream.loaded[0].priority, self._number, stream))

    def wake(self) -> None:
        """See to everything, once in this turn of the loop."""
        if not self._woken and self.running:
            self._woken = True
            self._call_soon(self._go_round)

    def _go_round(self) -> None:
        self._woken = False
        if not self.running:
            return
        now = self._clock()
        heap = self._heap
        send_next = self._send_next
        left = _AT_ONCE
        while heap and left > 0:
            rank, _, stream = heappop(heap)
            stream.queued = False
            count = 0
            while stream.ready and count < _TURN and -stream.loaded[0].priority == rank and send_next(stream, now):
                count += 1
            left -= count + 1
            self.offer(stream)
            self._had_turn(stream)
        self._round_over()
        if heap:
            self.wake()
