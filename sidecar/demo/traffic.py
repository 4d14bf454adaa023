"""The clients of the demo: requests at a steady pace, and the outcome of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import aiohttp

#: Seconds over which rates and latencies of the moment are taken.
WINDOW = 1.0
#: Requests of one kind that may be under way; beyond, the pace slows down.
MOST_UNDER_WAY = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request. ``error`` is empty for a success; ``seconds`` is how long the client waited."""

    at: float
    instance: str
    error: str
    seconds: float


@dataclass(slots=True)
class Tally:
    """The outcome of one phase."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.requests += 1
        if not sample.error:
            self.instances[sample.instance] += 1
            self.latencies.append(sample.seconds)
            return
        self.errors[sample.error] += 1
        if sample.error == "circuit_open":
            self.refusals.append(sample.seconds)


@dataclass(frozen=True, slots=True)
class Moment:
    """Rates of the last :data:`WINDOW` seconds, per second, and latencies, in seconds."""

    rate: float
    instances: dict[str, float]
    errors: float
    p50: float
    p99: float


def _code(status: int, body: bytes) -> str:
    """Return the error code of a sidecar's own answer: it stands in the body, and web has passed that on."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return f"status {status}"


def quantile(values: list[float], q: float) -> float:
    """Return the ``q`` quantile (0 to 1) of the values, which is one of them; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


class Traffic:
    """Sends ``rate`` requests per second to ``url``, whatever their outcome. :attr:`phase` says where they count."""

    def __init__(self, session: aiohttp.ClientSession, method: str, url: str, rate: float) -> None:
        self._session = session
        self._method = method
        self._url = url
        self._interval = 1 / rate
        self._recent: deque[Sample] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._started = time.monotonic()
        self.phase = ""
        self.phases: dict[str, Tally] = {}
        #: When each instance answered last (monotonic time).
        self.latest: dict[str, float] = {}

    async def run(self) -> None:
        """Send until cancelled; requests under way are dropped then."""
        self._started = due = time.monotonic()
        try:
            while True:
                if len(self._under_way) < MOST_UNDER_WAY:
                    task = asyncio.create_task(self._request())
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                # No catching up after a pause of this process: a burst would not be the steady traffic it claims to be.
                due = max(due + self._interval, time.monotonic() - self._interval)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _request(self) -> None:
        began = time.monotonic()
        instance = ""
        try:
            async with self._session.request(self._method, self._url, data=b"{}") as answer:
                body = await answer.read()
                instance = answer.headers.get("x-instance", "")
                error = "" if answer.status == 200 else _code(answer.status, body)
        except TimeoutError:
            error = "no answer in time"
        except (aiohttp.ClientError, OSError):
            error = "cut off"
        now = time.monotonic()
        sample = Sample(now, instance, error, now - began)
        if not error:
            self.latest[instance] = now
        self._recent.append(sample)
        self.phases.setdefault(self.phase, Tally()).add(sample)

    def moment(self) -> Moment:
        """Return the figures of this moment."""
        now = time.monotonic()
        recent = self._recent
        while recent and recent[0].at < now - WINDOW:
            recent.popleft()
        span = max(0.25, min(WINDOW, now - self._started))
        good = [sample for sample in recent if not sample.error]
        latencies = [sample.seconds for sample in good]
        return Moment(
            rate=len(recent) / span,
            instances={name: n / span for name, n in Counter(sample.instance for sample in good).items()},
            errors=(len(recent) - len(good)) / span,
            p50=quantile(latencies, 0.5),
            p99=quantile(latencies, 0.99),
        )

    def total(self) -> Tally:
        """Return the figures of all phases together."""
        whole = Tally()
        for tally in self.phases.values():
            whole.requests += tally.requests
            whole.errors += tally.errors
            whole.instances += tally.instances
            whole.latencies += tally.latencies
            whole.refusals += tally.refusals
        return whole
