"""Virtual time, a network in it, and what can be reached there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol, cast

from sidecar.agent.assembly import Context
from sidecar.agent.rehearsal.clockwork import Loop
from sidecar.config.agent import Tracing
from sidecar.core.records import AccessLog
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.breaker import CircuitBreaker

#: What the clock says at the beginning: to many mechanisms a time of 0 means "never".
START: Final = 1000.0
#: Seconds that bytes are on their way, in one direction.
LATENCY: Final = 0.0001

#: Takes the bytes of an answer; none: the connection was cut before there was one.
Answer = Callable[[bytes], None]


class Place(Protocol):
    """What stands at an address. ``accepts``: connections can be made to it; ``None``: they are neither made nor
    refused."""

    accepts: bool | None

    def ask(self, request: bytes, answer: Answer) -> object:
        """Take a request, and have ``answer`` called once when there is one. Return what :meth:`leave` is told."""
        ...

    def leave(self, asked: Any) -> None:
        """Who asked that waits no longer."""
        ...


class World:
    """A run: one seed, one clock. Whatever is random has its own numbers (:meth:`random`), so that two runs that
    differ in a policy have the same arrivals and the same service times."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.loop = Loop(START)
        self.places: dict[tuple[str, int], Place] = {}
        #: How often breakers have changed their state.
        self.breaker_changes = 0
        self.on_breaker: Callable[[str, CircuitBreaker], None] | None = None
        self._wheel = TimerWheel(cast(Any, self.loop).call_at, self.loop.time)
        self._rng = self.random("sidecars")

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.loop.time() - START

    def random(self, name: str) -> Random:
        """Random numbers of their own for that."""
        return Random(f"{self.seed} {name}")

    def sidecar(self) -> Context:
        """Another sidecar: what its ports share."""
        return Context(
            loop=cast(asyncio.AbstractEventLoop, self.loop), wheel=self._wheel, clock=self.loop.time, rng=self._rng,
            access_log=AccessLog("off", lambda record: None), record_span=None,
            tracing=Tracing(propagate=(), sample=0.0, always=()), breaker_changed=self._breaker_changed,
        )  # fmt: skip

    def at(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        """Do that so many seconds after the beginning."""
        self.loop.call_at(START + seconds, call, *args)

    def run(self, until: float) -> None:
        """Let time pass, until so many seconds after the beginning."""
        self.loop.run_until(START + until)

    def _breaker_changed(self, name: str, breaker: CircuitBreaker) -> None:
        self.breaker_changes += 1
        if self.on_breaker is not None:
            self.on_breaker(name, breaker)
