"""Gives a cluster the balancer that the configuration names, and what that goes by."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from sidecar.agent.llm import model_of
from sidecar.config.balancing import HASH, Hash
from sidecar.config.llm import LlmSettings
from sidecar.config.traffic import Inbound, Upstream
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.balancers.loaded_first import LoadedFirst
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.subsets import Selector, Subsets
from sidecar.exchange.filter import Filter
from sidecar.exchange.hash_key import by_ip, hash_key
from sidecar.filters.load_report import LoadReport


def balancer(config: Inbound | Upstream, rng: Random, clock: Callable[[], float]) -> Balancer:
    """A new one. The sidecar's own app has one address: there is nothing to choose."""
    if isinstance(config, Inbound):
        return create("round_robin", rng)
    models = _models(config)
    if models is not None:
        return LoadedFirst(rng, models.slots, models.loaded == "tags")
    return create(config.balancer, rng, clock, (config.hash or Hash()).balance_factor)


def key_of(config: Inbound | Upstream) -> Callable[[Any], str] | None:
    """What finds an exchange's key; None: it is the client's address."""
    if isinstance(config, Inbound):
        return None
    if _models(config) is not None:
        return model_of
    if config.balancer != HASH:
        return None
    return hash_key((config.hash or Hash()).by)


def differs(old: Upstream, new: Upstream) -> bool:
    """Whether endpoints are chosen by other settings."""
    models, now = _models(old), _models(new)
    by = None if models is None else (models.slots, models.loaded)
    return (old.balancer, old.hash, by) != (new.balancer, new.hash, None if now is None else (now.slots, now.loaded))


def asks_models(config: Upstream) -> bool:
    """Whether instances are asked which models they have loaded."""
    models = _models(config)
    return models is not None and models.loaded == "ollama"


def _models(config: Upstream) -> LlmSettings | None:
    """The settings of an upstream whose instances are chosen by their models."""
    llm: LlmSettings | None = config.policies.get("llm")
    return llm if llm is not None and llm.loaded else None


def asking(config: Inbound | Upstream) -> list[Filter]:
    """The filters that ask endpoints' sidecars for what the balancer goes by."""
    return [LoadReport()] if isinstance(config, Upstream) and config.balancer == "prequal" else []


def change(cluster: Cluster, config: Upstream, rng: Random, clock: Callable[[], float]) -> None:
    """Let a running cluster go by other settings."""
    cluster.key_of = key_of(config)
    cluster.use(balancer(config, rng, clock))
    if cluster.subsets is not None:
        cluster.subsets.use(lambda: balancer(config, rng, clock))


def divide(cluster: Cluster, config: Inbound | Upstream, rng: Random, clock: Callable[[], float]) -> None:
    """Give a cluster the subsets of its upstream from now on."""
    found = selectors(config) if isinstance(config, Upstream) else {}
    if not found:
        if cluster.subsets is not None:
            cluster.subsets.leave()
        return
    subsets = cluster.subsets
    if subsets is None:
        subsets = cluster.subsets = Subsets(cluster, lambda: balancer(config, rng, clock), clock, rng)
    assert isinstance(config, Upstream)
    subsets.key_of = None if config.sticky is None else hash_key(config.sticky) or by_ip
    subsets.configure(found)


def others(config: Upstream) -> list[str]:
    """The services, beside its own, whose instances are in its subsets."""
    return list(dict.fromkeys(it.service for it in selectors(config).values() if it.service))


def selectors(config: Upstream) -> dict[str, Selector]:
    """What tells its subsets, by name."""
    own = config.discover.service if config.discover is not None else ""
    return {
        name: Selector("" if it.service == own else it.service, it.tag, tuple(sorted(it.meta.items())))
        for name, it in config.subsets.items()
    }
