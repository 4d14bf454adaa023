"""Filters of other packages, without installing any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sidecar.config.declared import Used, declared
from sidecar.config.traffic import Upstream
from sidecar.exchange.filter import Filter
from sidecar.filters.retry import RetrySettings
from support.live import ANY_PORT
from support.ports import upstream_of

HTTP = upstream_of(name="up", bind=ANY_PORT, retry=RetrySettings(jitter=False), circuit_breaker=None)
TCP = replace(HTTP, protocol="tcp")


def foreign(name: str = "foreign", **members: Any) -> Any:
    """A filter's class with these hooks and attributes."""
    return type(name, (Filter,), {"name": name, "protocols": ("http", "tcp"), **members})


def used(filter_class: Any, **settings: Any) -> Used:
    """It, as the configuration names it under ``filters``."""
    it = declared(filter_class)
    return Used(it, it.section.model(**settings))


def using(config: Upstream, *filter_classes: Any) -> Upstream:
    """The configuration with these filters."""
    return replace(config, filters=tuple(used(it) for it in filter_classes))
