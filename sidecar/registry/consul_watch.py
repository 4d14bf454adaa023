"""Follows what is in Consul by blocking queries: one service's instances, and whatever else is asked for.

https://developer.hashicorp.com/consul/api-docs/features/blocking says how: an index that goes down starts again from 0,
one below 1 counts as 1, a return is no proof of a change, and the loop limits its own rate.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from consul import ConsulException

from sidecar.registry.consul_client import BadAnswer
from sidecar.registry.consul_health import read
from sidecar.registry.link import Link
from sidecar.registry.outage_grace import Hold
from sidecar.registry.pace import Pace
from sidecar.registry.validate import Refusals
from sidecar.registry.watch import Watch
from sidecar.resilience.backoff import Backoff

#: Seconds a query may block; each one takes 90 to 100 % of it, so that a host's watches do not stay in step.
WAIT = 300.0
#: Seconds that an answer may take which is not blocked.
ANSWER = 10.0
#: Longest backoff, seconds. Consul's own clients go up to 3 minutes, but a refused connection costs an agent nothing,
#: and an agent that is back should be found again well within a service's RTO of 30 s. At this cap the full jitter
#: makes 64 sidecars with 4 watches each some 50 cheap queries a second.
AWAY = 10.0
#: The same when Consul answers, but with a refusal (4xx: 429, ACL): it is there, asking more often does not help.
REFUSED = 30.0

#: The same before there was any answer, for so many tries (some 15 s): an app may wait for that one.
AT_FIRST = 2.0
FIRST_TRIES = 16

_rng = random.Random()
_after_silence = Backoff(0.2, AWAY, _rng)
_after_refusal = Backoff(0.2, REFUSED, _rng)
_at_first = Backoff(0.2, AT_FIRST, _rng)


def backoff(failures: int, error: BaseException) -> float:
    """Seconds to wait after that many failures in a row, of which this was the last."""
    # py-consul: 4xx are subclasses, 5xx ("No cluster leader" while one is elected) the plain ConsulException.
    refused = isinstance(error, ConsulException) and type(error) is not ConsulException
    return (_after_refusal if refused else _after_silence).delay(failures)


def jittered(wait: float) -> float:
    """So many seconds, or somewhat less."""
    return wait * _rng.uniform(0.9, 1.0)


class BlockingQuery:
    """A query that is asked again whenever it has returned. ``ask`` asks once, given an index behind which it waits (0:
    it does not), and returns the next one; ``failed`` is called when that has raised something. ``answered`` is set by
    whoever gets the answers, with the first one."""

    def __init__(
        self, source: str, ask: Callable[[int], Awaitable[int]], link: Link, clock: Callable[[], float],
        answered: asyncio.Event, failed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.source = source
        self.answered = answered
        self._ask = ask
        self._link = link
        self._failed = failed
        #: A change is seen at once, what changes all the time once a second.
        self._pace = Pace(1.0, 10, clock)
        self._failures = 0
        self.task = asyncio.create_task(self._run(), name=source)

    def restart(self) -> None:
        """Ask afresh and at once: after an outage the query under way may hang on a connection that is dead, or the
        loop may be waiting for its next try."""
        self.task.cancel()
        self.task = asyncio.create_task(self._run(), name=self.source)

    async def _run(self) -> None:
        index = 0
        while True:
            await self._pace.turn()
            try:
                index = await self._ask(index)
                self._failures = 0
            except Exception as error:
                index = 0  # an agent that lost its data has a lower index, and would let a higher one wait
                self._failures += 1
                self._failed()
                self._link.failed(self.source, error, away=not isinstance(error, ConsulException))
                delay = backoff(self._failures, error)
                if not self.answered.is_set() and self._failures <= FIRST_TRIES:
                    delay = min(delay, _at_first.delay(self._failures))
                await asyncio.sleep(delay)


class ConsulWatch(Watch):
    """One query, shared by everyone who follows the same service and tag. ``client`` gives the py-consul client."""

    def __init__(
        self, service: str, tag: str, client: Callable[[], Any], link: Link, clock: Callable[[], float]
    ) -> None:
        super().__init__(service, tag)
        self._client = client
        self._link = link
        self._hold = Hold(clock)
        self._refusals = Refusals(service, clock)
        self._release: asyncio.TimerHandle | None = None
        self._last_index = 0
        source = f"watch of {service}" + (f" with tag {tag}" if tag else "")
        self.query = BlockingQuery(source, self._query, link, clock, self.answered, self._hold.outage)

    async def stop(self) -> None:
        """End it; nobody is called any more."""
        self.query.task.cancel()
        if self._release is not None:
            self._release.cancel()
        self.answered.set()
        self._link.gone(self.query.source)
        await asyncio.wait({self.query.task})

    async def _query(self, index: int) -> int:
        """Ask once; returns the index to go on with."""
        wait = jittered(WAIT)
        # Consul itself adds up to a sixteenth to the wait.
        async with asyncio.timeout(ANSWER + (wait * 17 / 16 if index else 0)):
            number, text = await self._client().instances(self.service, index=index, wait=f"{wait:.0f}s", tag=self.tag)
        answered = _index(number)
        refused: list[str] = []
        try:
            found = await asyncio.to_thread(read, text, refused.append)
        except ValueError as error:
            raise BadAnswer(str(error)) from error
        self._refusals.report(refused)
        self._link.ok(self.query.source)
        usable = self._hold.apply(found, went_back=answered < self._last_index)
        self._last_index = answered
        if self._release is not None:
            self._release.cancel()
            self._release = None
        if self._hold.remaining:
            loop = asyncio.get_running_loop()
            self._release = loop.call_later(self._hold.remaining, lambda: self.publish(self._hold.release()))
        self.publish(usable)
        return 0 if answered < index else answered


def _index(text: str) -> int:
    """The value of ``X-Consul-Index``. Raises :class:`BadAnswer` for anything but a number of 64 bits."""
    try:
        if len(text) <= 20:
            return max(1, int(text))
    except ValueError:
        pass
    raise BadAnswer(f"Consul's index is not a number: {text[:40]!a}")
