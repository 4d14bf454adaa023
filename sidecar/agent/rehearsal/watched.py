"""Which header fields decide something with a configuration: those are recorded, as checksums."""

from __future__ import annotations

from sidecar.config.traffic import Inbound, Upstream


def watched(config: Inbound | Upstream) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of fields that rate limits count by, and the conditions (name, glob) of the port's routes."""
    names: list[str] = []
    for it in (config, *config.routes):
        limit = it.policies.get("rate_limit")
        kind, _, name = str(getattr(limit, "key", "")).partition(":")
        if kind == "header":
            names.append(name)
    conditions = {item: None for route in config.routes for item in route.match.headers.items()}
    return names, list(conditions)
