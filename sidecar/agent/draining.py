"""How a sidecar leaves: no new work comes in, what is under way ends, the app goes, and only then what it dials.

    deregistered → drain.delay → inbound drained → the app is told, and ends → outbound drained

Outbound ports serve all that time: the app may need its upstreams to finish what it has begun. The app is told by
``sidecar exec``, or by who asked for the drain and waits for it (``POST /drain?wait=1``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.agent import changes
from sidecar.endpoints.probe import probe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.agent.clusters import RunningUpstream
    from sidecar.agent.redirection import Redirection
    from sidecar.config.schema import Config
    from sidecar.core.stats import ListenerStats
    from sidecar.exchange.listener import Listener
    from sidecar.registry import Registry

logger = logging.getLogger("sidecar.agent")

#: Seconds between two looks at whether the app is still there.
LOOK: Final = 0.25
#: Seconds that the app may take to accept a connection.
PATIENCE: Final = 1.0
#: Seconds that outbound exchanges have in any case once the app has gone, whatever was left of ``drain.timeout``.
LAST: Final = 1.0
#: Seconds for which callers' idle connections stay open once nothing new is taken. To close one could meet a request on
#: its way, of which nobody would know whether it was served: who sends one now is told, and goes elsewhere. Callers'
#: sidecars close theirs, as they learn from the registry that this instance has gone.
LINGER: Final = 1.0


class Companion(Protocol):
    """The app that leaves together with the sidecar."""

    def inbound_drained(self) -> None:
        """Nothing more comes in, and what was under way is over: the app can be told to end."""

    async def ended(self) -> None:
        """Wait until it has gone."""


class AppsTurn:
    """When the app is to be told to end: ``inbound_drained`` is set when nothing comes in any more; ``awaited``:
    somebody waits for that, and tells it then."""

    def __init__(self) -> None:
        self.inbound_drained = asyncio.Event()
        self.awaited = False


class Leaving(Protocol):
    """What there is to drain of a sidecar."""

    config: Config
    registry: Registry | None
    inbound: Listener | None
    redirection: Redirection
    apps_turn: AppsTurn

    def drain(self, by: str) -> None: ...

    @property
    def upstreams(self) -> Mapping[str, RunningUpstream]: ...

    @property
    def stats(self) -> Sequence[ListenerStats]: ...


async def drain_inbound(agent: Leaving, by: str) -> None:
    """Begin to drain, and return when nothing comes in any more. Who waits for that ends the app next; until it has
    gone, what it dials is served. Without an inbound port that is at once, and nothing is drained."""
    if agent.inbound is not None:
        agent.apps_turn.awaited = True
        agent.drain(by)
        await agent.apps_turn.inbound_drained.wait()


async def drain(agent: Leaving, companion: Companion | None, by: str) -> None:
    """Drain, as :data:`drain` of the configuration says. ``by``: who wants it, for the log."""
    config = agent.config.drain
    loop = asyncio.get_running_loop()
    stats = agent.stats
    changes.draining(config.timeout, sum(s.active for s in stats), by)
    for upstream in agent.upstreams.values():
        upstream.listener.stop_work()
    if agent.registry is not None:
        await agent.registry.deregister()
    inbound = agent.inbound
    if inbound is not None:
        if config.delay:
            await _within(config.delay, companion)
        inbound.stop_work()
        inbound.draining = True
    until = loop.time() + config.timeout
    if inbound is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await inbound.drained()
                await _deserted(inbound)
        inbound.drain()
    agent.apps_turn.inbound_drained.set()
    if companion is not None:
        companion.inbound_drained()
        await companion.ended()
    elif config.outbound == "until_app_ends" or agent.apps_turn.awaited:
        last = max(until, loop.time() + config.app) if agent.apps_turn.awaited else until
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(last):
                await _app_is_gone(agent)
    outbound = _outbound(agent)
    for listener in outbound:
        listener.drain()
    with contextlib.suppress(TimeoutError):
        after_app = companion is not None or agent.apps_turn.awaited
        async with asyncio.timeout_at(max(until, loop.time() + LAST if after_app else 0.0)):
            for listener in outbound:
                await listener.drained()
    left = sum(s.active for s in agent.stats)
    if left:
        logger.warning("the drain timeout is over; cutting what is left", extra={"active": left})


def _outbound(agent: Leaving) -> list[Listener]:
    """Where the app dials, or is led to."""
    return [*(upstream.listener for upstream in agent.upstreams.values()), *agent.redirection.listeners]


async def _deserted(inbound: Listener) -> None:
    """Wait until no caller is connected, for :data:`LINGER` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while inbound.stats.client_connections:  # noqa: ASYNC110 - as in Listener.drained
                await asyncio.sleep(0.02)


async def _within(seconds: float, companion: Companion | None) -> None:
    """Let that time pass, or less if the app ends meanwhile: there is nothing to serve then."""
    if companion is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await companion.ended()


async def _app_is_gone(agent: Leaving) -> None:
    """Wait until nothing accepts connections where the app listens, and nobody is connected to what it dials: one that
    ends well closes its port first, and then finishes what it has begun."""
    assert agent.inbound is not None, "the configuration makes sure that it is known where the app listens"
    cluster = agent.inbound.cluster
    while True:
        if (await probe(cluster.endpoints, PATIENCE)).status == "unhealthy" and not any(
            listener.stats.client_connections for listener in _outbound(agent)
        ):
            return
        await asyncio.sleep(LOOK)
