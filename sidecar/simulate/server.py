"""An app: so many at once, a time for each, a queue before it, and the ways in which it fails."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from sidecar.simulate.port import Port
from sidecar.simulate.world import LATENCY, Answer, World

#: Answers of apps.
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
BROKEN: Final = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
#: What an app says that needs another service, and was given an error there.
BAD_GATEWAY: Final = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
_REQUEST_ID: Final = re.compile(rb"x-request-id:[^\r]*\r\n")


def exponential(random: Random, mean: float, least: float = 0.0) -> Callable[[], float]:
    """Times that are ``least`` and something more, ``mean`` seconds on average, of which long ones are rare."""
    return lambda: least + random.expovariate(1 / mean)


class Job:
    """A request that an app has taken."""

    __slots__ = ("answer", "call", "left", "request")

    def __init__(self, request: bytes, answer: Answer) -> None:
        self.request = request
        self.answer: Answer | None = answer
        #: What it has asked of another service.
        self.call: object = None
        #: Nobody waits for it any more.
        self.left = False


class Server:
    """``slots`` requests at once, each for ``seconds()``, and up to ``queue`` more that wait in their order.

    As most apps do, it does not notice that a client has left until it writes the answer: work for nobody is done all
    the same, unless ``notices``, which takes it out of the queue. With ``calls`` it asks another service through that
    port, as a part of its work, and passes the request's id on, unless ``passes_ids`` is false. Times are stretched by
    ``slow`` and have ``extra`` added; a share ``broken`` of its answers is 500.
    """

    def __init__(
        self,
        world: World,
        seconds: Callable[[], float],
        slots: int = 1000,
        queue: int = 100_000,
        *,
        calls: Port | None = None,
        notices: bool = False,
        passes_ids: bool = True,
        name: str = "server",
    ) -> None:
        self.world = world
        self.accepts: bool | None = True
        self.seconds = seconds
        self.slots = slots
        self.queue = queue
        self.calls = calls
        self.notices = notices
        self.passes_ids = passes_ids
        self.slow = 1.0
        self.extra = 0.0
        self.broken = 0.0
        self.failing = 0.0
        self.hangs = False
        #: Requests that came; that were begun, done, done for nobody, and turned away.
        self.asked = self.done = self.wasted = self.refused = 0
        #: Called with the time whenever a request comes.
        self.on_asked: Callable[[], None] | None = None
        self.active = 0
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, None] = {}
        self._random = world.random(name).random

    @property
    def backlog(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def at(self, host: str, port: int = 80) -> Server:
        """Have it stand at that address."""
        self.world.places[host, port] = self
        return self

    def ask(self, request: bytes, answer: Answer) -> Job:
        self.asked += 1
        if self.on_asked is not None:
            self.on_asked()
        job = Job(request, answer)
        if self.hangs:
            return job
        if self.failing and self._random() < self.failing:
            self._say(job, BUSY)
            return job
        if self.active < self.slots:
            self._begin(job)
        elif len(self._waiting) < self.queue:
            self._waiting.append(job)
        else:
            self.refused += 1
            self._say(job, BUSY)
        return job

    def leave(self, asked: Job) -> None:
        asked.left = True
        if self.notices:
            try:
                self._waiting.remove(asked)
            except ValueError:
                pass

    def resize(self, slots: int) -> None:
        """Do so many at once from now on."""
        self.slots = slots
        self._next()

    def stop(self) -> None:
        """It dies: connections break, new ones are refused."""
        self.accepts = False
        jobs = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        self.active = 0
        for job in jobs:
            self._say(job, b"")

    def fail(self, share: float) -> None:
        """Answer 503 at once to that share of the requests from now on."""
        self.failing = share

    def start(self) -> None:
        """It is there again."""
        self.accepts = True

    def _begin(self, job: Job) -> None:
        self.active += 1
        self._running[job] = None
        self.world.loop.call_later(self.seconds() * self.slow + self.extra, self._worked, job)

    def _worked(self, job: Job) -> None:
        if job not in self._running:
            return  # it died meanwhile
        if self.calls is not None and not job.left:
            id = _REQUEST_ID.search(job.request) if self.passes_ids else None
            request = b"GET / HTTP/1.1\r\nhost: there\r\n%b\r\n" % (id[0] if id is not None else b"")
            job.call = self.calls.ask(request, lambda answer: self._called(job, answer))
        else:
            self._finish(job, BROKEN if self.broken and self._random() < self.broken else OK)

    def _called(self, job: Job, answer: bytes) -> None:
        """The other service has answered (or not)."""
        if job in self._running:
            self._finish(job, OK if answer[9:10] == b"2" else BAD_GATEWAY)

    def _finish(self, job: Job, answer: bytes) -> None:
        del self._running[job]
        self.active -= 1
        self.done += 1
        self.wasted += job.left
        self._say(job, answer)
        self._next()

    def _next(self) -> None:
        while self._waiting and self.active < self.slots:
            self._begin(self._waiting.popleft())

    def _say(self, job: Job, answer: bytes) -> None:
        tell, job.answer = job.answer, None
        if tell is not None and not job.left:
            self.world.loop.call_later(LATENCY, tell, answer)
