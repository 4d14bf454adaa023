"""What a canary of the configuration comes to: the weights of its split, its guard, and the name of its state."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING

from sidecar.agent import balancing
from sidecar.config.canary import CanarySettings
from sidecar.config.traffic import Upstream
from sidecar.exchange.listener import Listener
from sidecar.filters.split import SplitTraffic

if TYPE_CHECKING:
    from sidecar.resilience.canary_judge import Guard


def split_of(listener: Listener) -> SplitTraffic | None:
    """The filter that splits the traffic of a port, without routes."""
    return next((it for it in listener.chain.filters if isinstance(it, SplitTraffic)), None)


def weights(base: dict[str, int], subset: str, percent: int) -> dict[str, int]:
    """The weights with which ``subset`` gets so many percent, and the others share the rest as they did."""
    total = sum([weight for name, weight in base.items() if name != subset])
    found = {name: weight * (100 - percent) for name, weight in base.items() if name != subset}
    return {**found, subset: total * percent}


def key_of(config: Upstream) -> str:
    """Under which name the state is kept: that of the service, and what tells its subsets from others. So sidecars that
    call the same share it, and instances under another tag begin anew. Fixed endpoints are the same service where their
    addresses are the same."""
    assert config.canary is not None
    service = config.discover.service if config.discover is not None else ""
    tag = config.discover.tag if config.discover is not None else ""
    fixed = sorted([str(it.address) for it in config.endpoints])
    said = json.dumps([tag, config.canary.subset, sorted(balancing.selectors(config).items()), *fixed])
    return f"canary-{(service or config.name)[:120]}-{blake2b(said.encode(), digest_size=8).hexdigest()}"


def hold(listener: Listener, config: Upstream) -> None:
    """Give the subset of a canary nothing, until its state is known."""
    split = split_of(listener)
    if config.canary is not None and split is not None:
        split.split.set(weights(dict(config.policies.get("split") or ()), config.canary.subset, 0))


def guard_of(settings: CanarySettings) -> Guard:
    from sidecar.resilience.canary_judge import Guard  # upstreams without a canary have the rest of this, too

    it = settings.guard
    return Guard(it.error_rate, it.p99, it.min_requests, it.window)
