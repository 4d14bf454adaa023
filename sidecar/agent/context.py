"""What all listeners of a sidecar share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidecar.agent.faults import FaultBoard
from sidecar.config.agent import Tracing as TracingSettings
from sidecar.core.decisions import Decisions
from sidecar.core.records import AccessLog as AccessLogWriter
from sidecar.core.records import SpanRecord, Stories
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.breaker import CircuitBreaker as Breaker
from sidecar.resilience.given_up import GivenUp
from sidecar.resilience.sampling import Sampling, slowness
from sidecar.resilience.shared_limit import SharedLimit


@dataclass(frozen=True, slots=True)
class Context:
    """The loop and its timers, the clock, random numbers, and where records of exchanges go."""

    loop: asyncio.AbstractEventLoop
    wheel: TimerWheel
    clock: Callable[[], float]
    rng: random.Random
    access_log: AccessLogWriter
    record_span: Callable[[SpanRecord], None] | None
    tracing: TracingSettings
    breaker_changed: Callable[[str, Breaker], None]
    #: Makes a limit that sidecars share: of its name, rate, burst and key.
    shared: Callable[[str, float, int, str], SharedLimit] | None = None
    stories: Stories = field(default_factory=lambda: Stories(lambda story: None, enabled=False))
    decisions: Decisions = field(default_factory=Decisions)
    given_up: GivenUp = field(default_factory=GivenUp)
    #: Which faults are on.
    faults: FaultBoard = field(default_factory=FaultBoard)
    #: Another upstream's listener, by its name.
    listener_of: Callable[[str], Any] = lambda name: None
    sampling: Sampling = field(init=False)

    def __post_init__(self) -> None:
        tracing = self.tracing
        slow = slowness(tracing.always, tracing.slow)
        sampling = Sampling(tracing.sample, "errors" in tracing.always, slow, self.clock)
        object.__setattr__(self, "sampling", sampling)  # it is frozen
