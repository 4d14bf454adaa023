"""The bulkhead's mechanism with priorities and, in an overload, the newest first and a bound on the wait.

What is critical is let in first and given up last. Within one priority it is first come, first served. A queue that has
been there for a while is an overload and no burst: each one is served late then, and the server works for clients that
have left. So what has waited for long is shed, and of the rest the newest goes first, which has most of
its time left (controlled delay and adaptive LIFO: Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012; for
servers Maurer, "Fail at Scale", ACM Queue 2015).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sidecar.core.compiling import mypyc_attr
from sidecar.resilience.adaptive_limit import AdaptiveLimit
from sidecar.resilience.limiter import Limiter

#: From what is let in first to what is let in last.
PRIORITIES: Final = ("critical", "normal", "low")
CRITICAL: Final = 0
NORMAL: Final = 1
LOW: Final = 2

#: Seconds that a queue has to be there at least to be an overload and no burst, by priority: while a limit is found,
#: even what is critical may have to wait for a moment.
_BURST: Final = (1.0, 0.25, 0.25)
#: Seconds, and response times, after which an overload is over, when there was no such queue and nothing was shed.
_CALM: Final = 0.25
_CALM_REQUESTS: Final = 2.0
#: The longest that one may wait in an overload: of the time that a request takes, and seconds at least. It is the
#: longer one while less than a fifth of those that wait are shed, so that a load just below the limit is not cut, and
#: the shorter one from nine in twenty on.
_LONG: Final = 2.0
_SHORT: Final = 0.5
_FEW: Final = 0.2
_MANY: Final = 0.45
_LEAST: Final = 0.005
#: Of how many that waited, about, that share is.
_MEMORY: Final = 64


@mypyc_attr(allow_interpreted_subclasses=True)
class Candidate:
    """What waits for a slot: how important it is (an index of :data:`PRIORITIES`), and since when it waits."""

    __slots__ = ("priority", "since")

    def __init__(self, priority: int, since: float) -> None:
        self.priority = priority
        self.since = since

    def granted(self) -> None:
        """Take the slot, which is counted as taken already. Must not raise; may give it back at once."""
        raise NotImplementedError

    def shed(self, reason: str) -> None:
        """Wait no more: there will be no slot. ``reason``: ``displaced`` by what is more important, or ``stale``.
        Must neither raise nor call the limiter."""
        raise NotImplementedError


class PriorityLimiter(Limiter):
    """A :class:`Limiter` whose waiters have a priority. With ``adaptive`` that says how many slots there are, and
    :attr:`limit` follows it.

    Take a slot by :meth:`admit`; when that fails, :meth:`join`. Every slot goes back by one :meth:`done`."""

    __slots__ = ("_count", "_overload_until", "_queued_since", "_queues", "_shed", "adaptive")

    def __init__(self, limit: int, max_pending: int, adaptive: AdaptiveLimit | None = None) -> None:
        Limiter.__init__(self, limit, max_pending)
        self.adaptive = adaptive
        self._queues: tuple[OrderedDict[Candidate, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._count = 0
        #: Of each priority: since when there has always been one that waits, and until when it counts as overloaded.
        self._queued_since = [0.0, 0.0, 0.0]
        self._overload_until = [0.0, 0.0, 0.0]
        #: And the share of those that waited which was shed.
        self._shed = [0.0, 0.0, 0.0]
        self._follow()

    @property
    def pending(self) -> int:
        return self._count

    def waiting(self) -> dict[str, int]:
        """Return how many wait, by priority."""
        return {name: len(queue) for name, queue in zip(PRIORITIES, self._queues, strict=True)}

    def admit(self, now: float) -> bool:
        """Take a slot if one is free and the queue is empty; return whether it was."""
        adaptive = self.adaptive
        if self.active < self._slots and not self._count:
            self.active += 1
            if adaptive is not None:
                adaptive.changed(self.active, now)
            return True
        if adaptive is not None:
            adaptive.pressed(now)
            self._follow()
            if self.active < self._slots:  # it has just grown
                self._let_in(now)
                return self.active < self._slots and not self._count and self.admit(now)
        return False

    def join(self, candidate: Candidate) -> bool:
        """Wait for a slot, after :meth:`admit` failed. In a full queue it takes the place of what is less important,
        of that the one that has waited longest. Return False when there is none."""
        if self._count >= self.max_pending and not self._displace(candidate.priority):
            return False
        queue = self._queues[candidate.priority]
        if not queue:
            self._queued_since[candidate.priority] = candidate.since
        queue[candidate] = None
        self._count += 1
        return True

    def done(self, outcome: int, since: float, now: float) -> None:
        """Give a slot back that was taken at ``since``; ``outcome``: see :mod:`sidecar.resilience.adaptive_limit`."""
        self.active -= 1
        adaptive = self.adaptive
        if adaptive is not None:
            adaptive.changed(self.active, now)
            adaptive.ended(outcome, since, now)
            self._follow()
        if self._count:
            self._let_in(now)

    def leave(self, candidate: Candidate) -> None:
        """Drop one that has given up, if it still waits."""
        queue = self._queues[candidate.priority]
        if candidate in queue:
            del queue[candidate]
            self._count -= 1

    def change(self, limit: int, now: float) -> None:
        """Another limit, or with :attr:`adaptive` other bounds of it. What fits is let in at once."""
        if self.adaptive is None:
            Limiter.resize(self, limit)
        self._follow()
        self._let_in(now)

    def release(self) -> None:
        raise NotImplementedError("a slot goes back by done()")

    def overloaded(self, now: float, priority: int) -> bool:
        """Return whether more of that priority comes than can be done, and no burst: its queue has been there for a
        while, or one was shed a moment ago."""
        adaptive = self.adaptive
        if adaptive is None or not adaptive.latency:
            return False
        if self._queues[priority] and now - self._queued_since[priority] > max(_BURST[priority], adaptive.latency):
            self._overload_until[priority] = now + max(_CALM, _CALM_REQUESTS * adaptive.latency)
        if now < self._overload_until[priority]:
            return True
        self._shed[priority] = 0.0
        return False

    def _follow(self) -> None:
        adaptive = self.adaptive
        if adaptive is not None:
            self._slots = adaptive.level
            self.limit = round(adaptive.estimate)

    def _displace(self, priority: int) -> bool:
        """Shed one that is less important; return whether there was one."""
        for at in (LOW, NORMAL):
            queue = self._queues[at]
            if at > priority and queue:
                candidate = queue.popitem(last=False)[0]
                self._count -= 1
                candidate.shed("displaced")
                return True
        return False

    def _let_in(self, now: float) -> None:
        """Hand free slots to those who wait. See :meth:`Limiter._grant` for the flag."""
        if self._granting:
            return
        self._granting = True
        try:
            for priority, queue in enumerate(self._queues):
                if not queue:
                    continue
                newest = self.overloaded(now, priority)
                if newest:
                    self._shed_stale(priority, now)
                while queue and self.active < self._slots:
                    candidate = queue.popitem(last=newest)[0]
                    self._count -= 1
                    self._shed[priority] -= self._shed[priority] / _MEMORY
                    self.active += 1
                    if self.adaptive is not None:
                        self.adaptive.changed(self.active, now)
                    candidate.granted()
        finally:
            self._granting = False

    def _shed_stale(self, priority: int, now: float) -> None:
        """Let those go that have waited for too long."""
        assert self.adaptive is not None
        queue = self._queues[priority]
        latency = self.adaptive.latency
        much = min(max((self._shed[priority] - _FEW) / (_MANY - _FEW), 0.0), 1.0)
        before = now - max(_LEAST, latency * (_LONG + (_SHORT - _LONG) * much))
        while queue:
            candidate = next(iter(queue))
            if candidate.since > before:
                break
            del queue[candidate]
            self._count -= 1
            self._overload_until[priority] = now + max(_CALM, _CALM_REQUESTS * latency)
            self._shed[priority] += (1.0 - self._shed[priority]) / _MEMORY
            candidate.shed("stale")
