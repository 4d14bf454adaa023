"""Reads the answer of Consul's ``/v1/health/service/:service``."""

from __future__ import annotations

from typing import Any

from sidecar.registry.api import Instance


def instances(nodes: Any) -> tuple[Instance, ...]:
    """The usable instances of an answer, in a stable order.

    An instance is as well as its worst check (those of its node included): critical ones and those in maintenance
    are left out, as are ones without a port, which cannot be dialed. Raises ValueError when the answer as a whole
    is not a list; single entries that make no sense are left out.
    """
    if not isinstance(nodes, list):
        raise ValueError(f"Consul's answer is not a list of instances but {type(nodes).__name__}")
    found = []
    for entry in nodes:
        try:
            instance = _instance(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if instance is not None:
            found.append(instance)
    return tuple(sorted(found, key=lambda instance: (instance.id, instance.host, instance.port)))


def _instance(entry: Any) -> Instance | None:
    service = entry["Service"]
    statuses = {check["Status"] for check in entry.get("Checks") or ()}
    if not statuses <= {"passing", "warning"}:
        return None
    state = "warning" if "warning" in statuses else "healthy"
    weights = service.get("Weights") or {}
    weight = int(weights.get("Warning" if state == "warning" else "Passing", 1))
    host = service.get("Address") or entry["Node"]["Address"]  # empty: the service is where its node is
    port = int(service["Port"])
    if not isinstance(host, str) or not host or not 0 < port < 65536 or weight < 0:
        return None
    return Instance(
        host=host,
        port=port,
        id=str(service.get("ID") or ""),
        weight=weight,
        state=state,
        tags=tuple(str(tag) for tag in service.get("Tags") or ()),
        meta={str(key): str(value) for key, value in (service.get("Meta") or {}).items()},
    )
