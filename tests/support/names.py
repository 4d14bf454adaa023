"""Host names for tests: a resolver that says what a test wants, and time that it moves."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from sidecar.endpoints.names import Names
from sidecar.net.lookup import Answer, LookupFailed
from support.clock import Clock


class FakeResolver:
    """Answers from ``answers``; a name that is in none is silent until it is."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | LookupFailed | Exception] = {}
        #: What is known without asking.
        self.file: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.closed = False
        self._changed = asyncio.Event()

    def set(self, name: str, *addresses: str, ttl: float = 60.0) -> None:
        self.put(name, Answer(addresses, ttl))

    def fail(self, name: str, text: str = "no DNS server has answered in time", missing: bool = False) -> None:
        self.put(name, LookupFailed(text, missing=missing))

    def put(self, name: str, answer: Answer | Exception) -> None:
        self.answers[name] = answer
        self._changed.set()
        self._changed = asyncio.Event()

    def known(self, name: str) -> Answer | None:
        return self.file.get(name)

    async def resolve(self, name: str) -> Answer:
        self.asked[name] += 1
        while name not in self.answers:
            await self._changed.wait()
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed = True


class Sleeps(Clock):
    """A clock with ``sleep``: who sleeps is woken by :meth:`pass_by`."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeping: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleeping.append((self.now + seconds, future))
        await future

    async def pass_by(self, seconds: float) -> None:
        """Let time go by, in the order of what is due, and everybody do what they do then."""
        end = self.now + seconds
        await settled()
        while due := [item for item in self._sleeping if item[0] <= end and not item[1].done()]:
            item = min(due, key=lambda item: item[0])
            self._sleeping.remove(item)
            self.now = max(self.now, item[0])
            item[1].set_result(None)
            await settled()
        self.now = end


async def settled() -> None:
    """Let everybody who can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


class FakeNames(Names):
    """Names over a resolver and a clock of a test's; every address has a route."""

    def __init__(self, min_ttl: float = 1.0, max_ttl: float = 300.0) -> None:
        self.fake = FakeResolver()
        self.time = Sleeps()
        super().__init__(
            self.fake,
            min_ttl,
            max_ttl,
            reachable=lambda addresses: addresses,
            clock=self.time,
            sleep=self.time.sleep,
            rng=random.Random(1),
        )
