"""Configurations of ports and routes, with the settings of filters as keys beside the others, as in a file."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from sidecar.config.schema import DECLARED
from sidecar.config.traffic import Inbound, Route, Upstream
from sidecar.core.stats import ListenerStats
from sidecar.exchange.filter import Site

Port = TypeVar("Port", bound=Inbound | Upstream | Route)


def upstream_of(**settings: Any) -> Upstream:
    """An upstream."""
    return Upstream(**sorted_out(settings))


def inbound_of(**settings: Any) -> Inbound:
    """An inbound port."""
    return Inbound(**sorted_out(settings))


def route_of(**settings: Any) -> Route:
    """A route."""
    return Route(**sorted_out(settings))


def changed(config: Port, **settings: Any) -> Port:
    """The same configuration, with some keys changed."""
    found = sorted_out(settings)
    return replace(config, **{**found, "policies": {**config.policies, **found.get("policies", {})}})


def site(clock: Callable[[], float], protocol: str = "http", stats: ListenerStats | None = None, **more: Any) -> Site:
    """Where a filter stands, at an upstream's port."""
    return Site("up", stats or ListenerStats("outbound", "up", protocol), clock, random.Random(1), {}, **more)


def sorted_out(settings: dict[str, Any]) -> dict[str, Any]:
    """The keys with those of filters under ``policies``."""
    policies = {name: settings.pop(name) for name in list(settings) if name in DECLARED}
    return {**settings, "policies": {**settings.get("policies", {}), **policies}} if policies else settings
