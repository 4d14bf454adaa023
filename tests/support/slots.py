"""A server with so many slots behind a limiter, in a time of its own: mechanisms alone, many requests in a second."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from sidecar.resilience.adaptive_limit import GOOD, AdaptiveLimit
from sidecar.resilience.priority_limiter import NORMAL, Candidate, PriorityLimiter

#: The seconds that a request takes.
Times = Callable[[random.Random], float]


def always(seconds: float) -> Times:
    return lambda rng: seconds


def exponential(seconds: float) -> Times:
    return lambda rng: rng.expovariate(1 / seconds)


class Asked(Candidate):
    """A request, while it waits."""

    def __init__(self, run: Run, priority: int, gives_up: float) -> None:
        super().__init__(priority, run.now)
        self.run = run
        self.gives_up = gives_up
        self.waits = True

    def granted(self) -> None:
        self.waits = False
        self.run.begin(self)

    def shed(self, reason: str) -> None:
        self.waits = False
        self.run.shed[self.priority, reason] += 1


class Run:
    """``rate`` requests per second come at random to ``limiter``, in front of ``slots``; more wait in the server.
    ``priorities`` are drawn from; clients give up after ``patience`` seconds, which the server does not notice."""

    def __init__(
        self,
        limiter: PriorityLimiter,
        slots: int,
        times: Times,
        rate: float | Callable[[float], float],
        *,
        seed: int = 1,
        priorities: tuple[int, ...] = (NORMAL,),
        patience: float = 1e9,
    ) -> None:
        self.limiter = limiter
        self.slots = slots
        self.times = times
        self.rate = rate
        self.priorities = priorities
        self.patience = patience
        self.now = 0.0
        #: (ended, seconds since it came, priority, whether its client was still there)
        self.done: list[tuple[float, float, int, bool]] = []
        self.came: Counter[int] = Counter()
        self.shed: Counter[tuple[int, str]] = Counter()
        self.limits: list[tuple[float, float]] = []
        self._arrivals = random.Random(seed)
        self._services = random.Random(seed + 1000)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = itertools.count()
        self._busy = 0
        self._inside: deque[tuple[Asked, float]] = deque()
        self._at(0.0, self._comes)
        self._at(0.0, self._look)

    def until(self, end: float) -> Run:
        while self._events[0][0] < end:
            self.now, _, call, args = heapq.heappop(self._events)
            call(*args)
        return self

    def mean_limit(self, begin: float, end: float) -> float:
        found = [limit for at, limit in self.limits if begin <= at < end]
        return sum(found) / len(found)

    def goodput(self, begin: float, end: float) -> float:
        """Requests per second that were answered while their client was there."""
        return sum(1 for at, _, _, there in self.done if there and begin <= at < end) / (end - begin)

    def seconds(self, share: float, begin: float, end: float) -> float:
        times = sorted(took for at, took, _, _ in self.done if begin <= at < end)
        return times[int(share * len(times))]

    def begin(self, asked: Asked) -> None:
        if self._busy < self.slots:
            self._serve(asked, self.now)
        else:
            self._inside.append((asked, self.now))

    def _at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (when, next(self._number), call, args))

    def _look(self) -> None:
        adaptive = self.limiter.adaptive
        self.limits.append((self.now, adaptive.estimate if adaptive is not None else self.limiter.limit))
        self._at(self.now + 0.25, self._look)

    def _comes(self) -> None:
        rate = self.rate(self.now) if callable(self.rate) else self.rate
        self._at(self.now + (self._arrivals.expovariate(rate) if rate else 0.1), self._comes)
        if not rate:
            return
        asked = Asked(self, self._arrivals.choice(self.priorities), self.now + self.patience)
        self.came[asked.priority] += 1
        if self.limiter.admit(self.now):
            self.begin(asked)
        elif self.limiter.join(asked):
            if self.patience < 1e9:
                self._at(asked.gives_up, self._gives_up, asked)
        else:
            self.shed[asked.priority, "full"] += 1

    def _gives_up(self, asked: Asked) -> None:
        if asked.waits:
            asked.waits = False
            self.limiter.leave(asked)
            self.shed[asked.priority, "left"] += 1

    def _serve(self, asked: Asked, since: float) -> None:
        self._busy += 1
        self._at(self.now + self.times(self._services), self._served, asked, since)

    def _served(self, asked: Asked, since: float) -> None:
        self._busy -= 1
        while self._inside and self._busy < self.slots:
            self._serve(*self._inside.popleft())
        self.done.append((self.now, self.now - asked.since, asked.priority, self.now <= asked.gives_up))
        self.limiter.done(GOOD, since, self.now)


def adaptive(floor: int = 2, ceiling: int = 1000, max_pending: int = 200) -> PriorityLimiter:
    """A limiter that finds its limit."""
    return PriorityLimiter(0, max_pending, AdaptiveLimit(floor, ceiling, 0.0))
