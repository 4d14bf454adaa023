"""Limits that sidecars share: made of the configuration, told about, and looked into for ``sidecar diagnose``."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

from sidecar.agent.findings import Finding, bad, good, none
from sidecar.config.redis import Redis
from sidecar.config.schema import Config
from sidecar.config.traffic import Match
from sidecar.core.events import EVENTS
from sidecar.core.metrics import Family
from sidecar.core.text import counted
from sidecar.exchange.listener import Listener
from sidecar.filters.rate_limit import RateLimit
from sidecar.net.lookup import Resolver

if TYPE_CHECKING:
    from sidecar.agent.assembly import Assembly
    from sidecar.redis.limits import SharedLimits
    from sidecar.resilience.shared_limit import SharedLimit

logger = logging.getLogger("sidecar.agent")

#: What happens meanwhile, by ``redis.on_failure``.
_MEANWHILE: Final = {
    "local": "each sidecar keeps to its share of the limits",
    "refuse": "what has a shared limit is refused",
    "allow": "shared limits do not limit",
}


def create(
    config: Config, resolver: Resolver, rng: random.Random, listeners: Callable[[], Iterable[Listener]]
) -> SharedLimits | None:
    """Begin to connect to Redis, if there is one in the configuration."""
    if config.redis is None:
        return None
    identity = config.service.id
    return _create(config.redis, identity, resolver, rng, lambda: in_use(listeners()))


def name_of(direction: str, name: str, match: Match | None) -> str:
    """What a shared limit is called: the same in all sidecars that have the same port or route."""
    where = f"{direction}:{name}"
    return f"{where}:{match.path}:{','.join(match.methods)}:{sorted(match.headers.items())}" if match else where


def _create(
    config: Redis, identity: str, resolver: Resolver, rng: random.Random, used: Callable[[], Iterable[SharedLimit]]
) -> SharedLimits:
    from sidecar.redis.client import Client  # only where it is used
    from sidecar.redis.limits import PROBE, SharedLimits
    from sidecar.redis.settings import Settings

    def changed(up: bool, text: str) -> None:
        limits.changed(up)
        if up:
            EVENTS.tell(logger, logging.INFO, "redis", f"Redis is back, and shared limits are shared again: {text}")
        else:
            EVENTS.tell(
                logger, logging.WARNING, "redis", f"Redis is away, so {_MEANWHILE[config.on_failure]}: {text}",
                on_failure=config.on_failure,
            )  # fmt: skip

    url = config.url
    settings = Settings(
        addresses=url.addresses, timeout=config.timeout, tls=url.tls, ca=config.ca, user=config.user,
        password=config.password, database=url.database, sentinel=config.sentinel,
    )  # fmt: skip
    client = Client(settings, resolver, rng, PROBE, changed)
    # Beside the id something of this run: two sidecars that are called the same are two all the same.
    identity = f"{identity}/{rng.getrandbits(32):08x}"
    limits = SharedLimits(client, identity, used, rng.random, config.on_failure, config.sidecars)
    return limits


def in_use(listeners: Iterable[Listener]) -> Iterable[SharedLimit]:
    """The limits that filters have at present."""
    for listener in listeners:
        for it in cast("Assembly", listener.assembly).filters:
            if isinstance(it, RateLimit) and it.shared is not None:
                yield it.shared


def families(shared: SharedLimits | None) -> Iterable[Family]:
    """What there is to count of them."""
    if shared is None:
        return ()
    from sidecar.redis import metrics

    return metrics.families(shared)


async def check(shared: SharedLimits | None) -> Finding:
    """Whether Redis answers."""
    if shared is None:
        return none("redis", "no limit is shared")
    client = shared.client
    if client.up:
        nodes = f", and {counted(client.nodes, 'node')} of its cluster," if client.nodes else ""
        asked = sum(shared.counts[it] for it in ("granted", "refused", "failed"))
        lost = shared.counts["failed"]
        return good("redis", f"{client.where}{nodes} answers; asked {asked} times, {lost} without an answer")
    step = "is it running, can this host reach it, and is the login right? see redis in the file; it goes on by itself"
    return bad("redis", f"{client.where} is away: {client.trouble or 'not connected yet'}", step)
