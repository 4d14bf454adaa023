"""Reads the answer of Consul's ``/v1/health/service/:service``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.registry import validate
from sidecar.registry.api import Instance


def _ignore(problem: str) -> None:
    pass


def instances(nodes: Any, refused: Callable[[str], None] = _ignore) -> tuple[Instance, ...]:
    """The usable instances of an answer, in a stable order.

    An instance is as well as its worst check (those of its node included): critical ones and those in maintenance
    are left out. Raises ValueError when the answer as a whole is not a list of at most
    :data:`~sidecar.registry.validate.MAX_INSTANCES`; single entries that make no sense are left out, and ``refused`` is
    told what is wrong with each.
    """
    if not isinstance(nodes, list):
        raise ValueError(f"Consul's answer is not a list of instances but {type(nodes).__name__}")
    if len(nodes) > validate.MAX_INSTANCES:
        raise ValueError(f"Consul's answer has {len(nodes)} instances, more than {validate.MAX_INSTANCES}")
    found = []
    for entry in nodes:
        try:
            instance = _instance(entry)
        except ValueError as error:
            refused(f"{_name(entry)}: {error}")
            continue
        if instance is not None:
            found.append(instance)
    return tuple(sorted(found, key=lambda instance: (instance.id, instance.host, instance.port)))


def _instance(entry: Any) -> Instance | None:
    """None: it is not well enough. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    node = _object(entry.get("Node"), "Node")
    service = _object(entry.get("Service"), "Service")
    checks = entry.get("Checks")
    if not isinstance(checks, list | None):
        raise ValueError("Checks is not a list")
    statuses = [_object(check, "one of its Checks").get("Status") for check in checks or ()]
    if any(status not in ("passing", "warning") for status in statuses):
        return None
    state = "warning" if "warning" in statuses else "healthy"
    weights = _object(service.get("Weights"), "Weights")
    return validate.instance(
        host_=service.get("Address") or node.get("Address"),  # empty: the service is where its node is
        port=service.get("Port"),
        id_=service.get("ID") or "",
        weight=weights.get("Warning" if state == "warning" else "Passing", 1),
        state=state,
        tags=_or(service.get("Tags"), []),
        meta=_or(service.get("Meta"), {}),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _object(value: Any, what: str) -> dict[str, Any]:
    """An object of JSON; one that is null is empty. Raises ValueError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value


def _name(entry: Any) -> str:
    """What an entry is called in a log line, whatever it is."""
    service = entry.get("Service") if isinstance(entry, dict) else None
    name = service.get("ID") if isinstance(service, dict) else None
    return name[:80] if isinstance(name, str) and name and name.isprintable() else "one without a name"
