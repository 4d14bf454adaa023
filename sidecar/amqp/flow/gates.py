"""What a publish may have to wait for: a rate, a queue that is too full, an alarm of the broker.

A gate knows whether it is open, and who stands in line before it, by priority and then by arrival. While somebody does,
it is shut for all who come later: nobody is overtaken by luck, and every token goes to those who have waited.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import ceil, inf
from typing import Final

from sidecar.amqp.flow.stats import QueueDepth
from sidecar.resilience.token_bucket import TokenBucket

#: Seconds before a question about a queue's depth in which what was passed on is taken to have missed the answer: it
#: was still on its way to the queue.
IN_FLIGHT: Final = 0.25
#: Passed publishes are counted by spans of this many seconds, and in at most so many of them.
_SPAN: Final = 0.01
_SPANS: Final = 512
#: Seconds after the last publish for which a queue that grows is taken to grow by those on their way.
_SETTLING: Final = 2.0
#: The part of ``high`` from which on a queue is to be watched closely.
_URGENT: Final = 0.9
#: A timer that comes later than this (seconds) does not get the tokens of the time before: no storm after a standstill.
_LATEST: Final = 0.5
#: How many entries nobody needs any more a line may have before it is cleared of them.
_LITTER: Final = 64


class Waiter:
    """Somebody in the line before ``gate``: those of lower ``rank`` go first, then those of lower ``arrival``. It
    stands for so many ``messages`` and ``bytes``. To change rank or arrival, leave the line first."""

    __slots__ = ("arrival", "bytes", "gate", "messages", "rank", "ticket")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.rank = 0
        self.arrival = 0
        self.messages = 0
        self.bytes = 0
        #: Tells its entry in the line from those it has left behind; 0: in no line.
        self.ticket = 0


class Gate:
    """One that is always open, and the base of those that are not. ``over`` says what becomes of a publish that comes
    to a closed gate: ``scheduler`` or ``nack``."""

    __slots__ = ("_line", "_ticket", "apart", "bytes", "messages", "name", "on_change", "over", "retired", "waiting")

    def __init__(self, name: str, over: str = "hold") -> None:
        self.name = name
        self.over = over
        #: How many are in the line, and how many messages and bytes they stand for.
        self.waiting = 0
        self.messages = 0
        self.bytes = 0
        #: Called when the gate may have opened, if that is not known beforehand.
        self.on_change: Callable[[], None] | None = None
        #: It belongs to no route: whoever stands before it was sent there.
        self.apart = False
        #: Nothing is asked of it any more: open for good.
        self.retired = False
        #: A heap of (rank, arrival, ticket, who); only entries with the ticket that their waiter holds are valid.
        self._line: list[tuple[int, int, int, Waiter]] = []
        self._ticket = 0

    def open(self, now: float) -> bool:
        """Whether somebody who does not stand in line may pass; if the gate gives out tokens, one was taken then."""
        return not self.waiting

    def admit(self, now: float) -> bool:
        """The same for the first of the line."""
        return True

    def passed(self, now: float) -> None:
        """A publish has gone through this gate and all others."""

    def fits(self, count: int, now: float) -> bool:
        """Whether so many that do not stand in line may pass, all of them, one after the other."""
        return not self.waiting

    def took(self, count: int, now: float) -> None:
        """So many have gone through this gate and all others, for which it was said that they fit."""

    def wake_at(self, now: float) -> float:
        """When to see to the line again; inf: :attr:`on_change` will tell."""
        return now

    def retire(self, now: float) -> None:
        """Open for good, because the configuration knows this gate no more."""
        self.retired = True
        self.changed()

    def changed(self) -> None:
        """Tell that the gate may have opened."""
        on_change = self.on_change
        if on_change is not None:
            on_change()

    def join(self, waiter: Waiter) -> None:
        """Stand in line. ``waiter`` must be in none."""
        self._ticket = ticket = self._ticket + 1
        waiter.gate = self
        waiter.ticket = ticket
        self.waiting += 1
        self.messages += waiter.messages
        self.bytes += waiter.bytes
        heappush(self._line, (waiter.rank, waiter.arrival, ticket, waiter))

    def leave(self, waiter: Waiter) -> None:
        """Leave the line, from any place in it."""
        waiter.ticket = 0
        self.waiting -= 1
        self.messages -= waiter.messages
        self.bytes -= waiter.bytes
        if len(self._line) > 2 * self.waiting + _LITTER:
            self._line = [entry for entry in self._line if self._valid(entry)]
            heapify(self._line)

    def first(self) -> Waiter | None:
        """Whose turn it is."""
        line = self._line
        while line:
            entry = line[0]
            if self._valid(entry):
                return entry[3]
            heappop(line)
        return None

    def _valid(self, entry: tuple[int, int, int, Waiter]) -> bool:
        waiter = entry[3]
        return waiter.ticket == entry[2] and waiter.gate is self


def all_pass(gates: tuple[Gate, ...], count: int, now: float) -> bool:
    """Whether so many that do not stand in line may pass these gates, all of them: then they have."""
    for gate in gates:
        if not gate.fits(count, now):
            return False
    for gate in gates:
        gate.took(count, now)
    return True


class RateGate(Gate):
    """At most ``rate`` publishes a second, ``burst`` of them at once. Raises :class:`ValueError` for a rate that is not
    above 0 or a burst below 1.

    While publishes wait, tokens are taken at the times they were due, however late the timer was: the rate is exact.
    """

    __slots__ = ("_bucket", "_due")

    def __init__(self, name: str, rate: float, burst: int, over: str, now: float) -> None:
        super().__init__(name, over)
        self._bucket = TokenBucket(rate, burst, now)
        #: When the next token is, as of the last refusal.
        self._due = now

    def open(self, now: float) -> bool:
        if self.retired:
            return True
        if self.waiting:
            return False
        wait = self._bucket.take(now)
        if wait == 0.0:
            return True
        self._due = now + wait
        return False

    def admit(self, now: float) -> bool:
        if self.retired:
            return True
        due = self._due
        if due < now - _LATEST:
            due = now - _LATEST
        while due <= now:
            wait = self._bucket.take(due)
            if wait == 0.0:
                self._due = due
                return True
            due += wait
        self._due = due
        return False

    def fits(self, count: int, now: float) -> bool:
        return self.retired or (not self.waiting and self._bucket.has(count, now))

    def took(self, count: int, now: float) -> None:
        if not self.retired:
            self._bucket.spend(count, now)

    def wake_at(self, now: float) -> float:
        return now if self.retired else self._due

    def change(self, rate: float, burst: int, over: str, now: float) -> None:
        """Other settings for those who wait and those who come. Raises as the constructor."""
        self._bucket = TokenBucket(rate, burst, now)
        self._due = now
        self.over = over
        self.changed()


class DepthGate(Gate):
    """Closed while the ``queue`` is too full, as far as is known.

    Between two samples of the depth, what was passed on since is added to it. Too many by that estimate closes the gate
    until a later sample puts it right; too many by a sample closes it until one finds no more than ``queue.low``. While
    the depth is not known, the gate is open.
    """

    __slots__ = (
        "_alert", "_asked", "_base", "_by_sample", "_sampled_total", "_spans", "_total", "_until", "closed",
        "on_urgent", "queue", "urgent",
    )  # fmt: skip

    def __init__(self, queue: QueueDepth, over: str) -> None:
        super().__init__(f"queue {queue.name} of {queue.vhost}", over)
        self.queue = queue
        self.closed = False
        #: The depth should be sampled now, and often: it is close to ``high`` or above it.
        self.urgent = False
        self.on_urgent: Callable[[], None] | None = None
        self._by_sample = False
        #: Publishes passed so far; those of them that the last sample is sure to have seen; at how many to look again.
        self._total = 0
        self._base = 0
        self._alert = sys.maxsize
        #: (end of a span of time, publishes passed before it began), oldest first; the end of the last one.
        self._spans: deque[tuple[float, int]] = deque()
        self._until = -inf
        self._asked = -inf
        #: Publishes passed when the last sample came.
        self._sampled_total = 0

    @property
    def estimate(self) -> int:
        """Messages in the queue, as far as can be known now; -1: not known."""
        return -1 if self.queue.depth < 0 else self.queue.depth + self._total - self._base

    def open(self, now: float) -> bool:
        return not (self.closed or self.waiting)

    def admit(self, now: float) -> bool:
        return not self.closed

    def wake_at(self, now: float) -> float:
        return inf if self.closed else now

    def passed(self, now: float) -> None:
        if now >= self._until:
            self._span(now)
        self._total = total = self._total + 1
        if total >= self._alert:
            self._judge()

    def fits(self, count: int, now: float) -> bool:
        return not (self.closed or self.waiting) and self._total + count < self._alert

    def took(self, count: int, now: float) -> None:
        if now >= self._until:
            self._span(now)
        self._total += count

    def sampled(self, depth: int, consumers: int, asked_at: float, now: float) -> None:
        """The queue had ``depth`` ready messages and so many consumers when it was asked, at ``asked_at`` or a little
        later."""
        if self.retired or asked_at < self._asked:
            return
        self._asked = asked_at
        queue = self.queue
        arriving = depth > queue.depth >= 0 and self._total == self._sampled_total and now - self._until < _SETTLING
        self._sampled_total = self._total
        queue.depth = depth
        queue.consumers = consumers
        queue.problem = ""
        if self.closed and arriving:
            # Nothing was passed on since the last sample, and the queue has grown all the same: what was passed on
            # before takes longer than usual to get there.
            self._judge_sample()
            return
        spans = self._spans
        seen = asked_at - IN_FLIGHT
        while spans and spans[0][0] <= seen:
            spans.popleft()
        self._base = spans[0][1] if spans else self._total
        self._judge_sample()

    def unknown(self, problem: str, now: float) -> None:
        """The depth cannot be had, for a reason that is told to people."""
        if self.retired:
            return
        self.queue.problem = problem
        self._forget()

    def reconsider(self, now: float) -> None:
        """The queue's ``high`` or ``low`` was changed."""
        if self.queue.depth >= 0:
            self._judge_sample()

    def retire(self, now: float) -> None:
        self.retired = True
        self._forget()
        self.changed()

    def _forget(self) -> None:
        self.queue.depth = self.queue.consumers = -1
        self._by_sample = False
        self._alert = sys.maxsize
        self._set(False, False)

    def _span(self, now: float) -> None:
        """Begin another span."""
        spans = self._spans
        if len(spans) >= _SPANS:
            # Nobody has asked for long: the two oldest become one, which counts for as long as its later part.
            oldest = spans.popleft()
            spans[0] = (spans[0][0], oldest[1])
        self._until = now + _SPAN
        spans.append((self._until, self._total))

    def _judge_sample(self) -> None:
        queue = self.queue
        if queue.depth >= queue.high:
            self._by_sample = True
        elif queue.depth <= queue.low:
            self._by_sample = False
        self._judge()

    def _judge(self) -> None:
        """Open, urgent or closed, by the estimate and the last sample."""
        high = self.queue.high
        estimate = self.queue.depth + self._total - self._base
        closed = self._by_sample or estimate >= high
        edge = ceil(high * _URGENT)
        urgent = closed or estimate >= edge
        if closed:
            self._alert = sys.maxsize
        else:
            self._alert = self._total + (high if urgent else edge) - estimate
        self._set(closed, urgent)

    def _set(self, closed: bool, urgent: bool) -> None:
        opened = self.closed and not closed
        pressing = urgent and not self.urgent
        self.closed = self.queue.full = closed
        self.urgent = urgent
        if pressing and self.on_urgent is not None:
            self.on_urgent()
        if opened:
            self.changed()


class SwitchGate(Gate):
    """A gate that its owner closes and opens, for an alarm of the broker, for one channel, or (``apart``) for publishes
    that are sent there beside their route. What waits here is never refused for being closed."""

    __slots__ = ("closed",)

    def __init__(self, name: str, apart: bool = False) -> None:
        super().__init__(name, "hold")
        self.apart = apart
        self.closed = False

    def open(self, now: float) -> bool:
        return not (self.closed or self.waiting)

    def admit(self, now: float) -> bool:
        return not self.closed

    def wake_at(self, now: float) -> float:
        return inf if self.closed else now

    def set(self, closed: bool) -> None:
        """Close it, or open it."""
        opened = self.closed and not closed
        self.closed = closed
        if opened:
            self.changed()
