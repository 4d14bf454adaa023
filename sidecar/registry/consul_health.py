"""Reads the answer of Consul's ``/v1/health/service/:service``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from sidecar.core.instance import Instance
from sidecar.registry import validate

#: Characters of an entry: nearly all have less than the first, and none may have more than the second.
_SHORT: Final = 1 << 13
_LONG: Final = 1 << 18

_SPACE: Final = re.compile(r"[ \t\n\r]*")

#: What a sidecar's registration has in its meta, as "1"; and the port of its admin API.
SIDECAR: Final = "sidecar"
ADMIN: Final = "sidecar_admin"
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


def _ignore(problem: str) -> None:
    pass


def read(text: str, refused: Callable[[str], None] = _ignore) -> tuple[Instance, ...]:
    """As :func:`instances`, from the answer's text. Raises ValueError when it is no JSON list.

    One entry after the other is parsed and left, so in a thread it neither holds up the event loop for longer than an
    entry takes, nor has more than an entry in memory."""
    return _usable(_entries(text), refused)


def instances(nodes: Any, refused: Callable[[str], None] = _ignore) -> tuple[Instance, ...]:
    """The usable instances of an answer, in a stable order.

    An instance is as well as its worst check (those of its node included): critical ones and those in maintenance
    are left out. Raises ValueError when the answer as a whole is not a list of at most
    :data:`~sidecar.registry.validate.MAX_INSTANCES`; single entries that make no sense are left out, and ``refused`` is
    told what is wrong with each.
    """
    if not isinstance(nodes, list):
        raise ValueError(f"Consul's answer is not a list of instances but {type(nodes).__name__}")
    return _usable(nodes, refused)


def _usable(entries: Iterable[Any], refused: Callable[[str], None]) -> tuple[Instance, ...]:
    found = []
    for count, entry in enumerate(entries, 1):
        if count > validate.MAX_INSTANCES:
            raise ValueError(f"Consul's answer has more than {validate.MAX_INSTANCES} instances")
        try:
            instance = _instance(entry)
        except ValueError as error:
            refused(f"{_name(entry)}: {error}")
            continue
        if instance is not None:
            found.append(instance)
    return tuple(sorted(found, key=lambda instance: (instance.id, instance.host, instance.port)))


def _entries(text: str) -> Iterator[Any]:
    """The elements of a JSON list (RFC 8259, section 5)."""
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("Consul's answer is not a list of instances")
    at = _skip(text, at + 1)
    end = text[at : at + 1]
    while end != "]":
        entry, at = _entry(text, at)
        yield entry
        at = _skip(text, at)
        end = text[at : at + 1]
        if end == ",":
            at = _skip(text, at + 1)
        elif end != "]":
            raise ValueError("Consul's answer is not JSON")
    if _skip(text, at + 1) != len(text):
        raise ValueError("Consul's answer goes on behind its end")


def _entry(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at ``at``, and where it ends."""
    for size in (_SHORT, _LONG):
        piece = text[at : at + size]
        try:
            entry, end = _DECODER.raw_decode(piece)
        except (ValueError, RecursionError):
            continue  # cut off, or not JSON
        if end < size:  # else it may be a number that was cut off
            return entry, at + end
    raise ValueError(f"Consul's answer has something in it that is not JSON, or longer than {_LONG} characters")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # it matches nothing, too
    return space.end()


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < 40 else float("inf")  # Python refuses to read thousands of digits


_DECODER: Final = json.JSONDecoder(parse_int=_integer)


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
    meta = _object(service.get("Meta"), "Meta")
    return validate.instance(
        host_=service.get("Address") or node.get("Address"),  # empty: the service is where its node is
        port=service.get("Port"),
        id_=service.get("ID") or "",
        weight=weights.get("Warning" if state == "warning" else "Passing", 1),
        state=state,
        tags=_or(service.get("Tags"), []),
        meta=_or(service.get("Meta"), {}),
        sidecar=meta.get(SIDECAR) == "1",
        admin=_admin(meta.get(ADMIN)),
    )


def _admin(value: Any) -> int:
    """The port that it says; 0: it says none. That is no reason to leave the instance out."""
    port = int(value) if isinstance(value, str) and _PORT.fullmatch(value) else 0
    return port if port < 65536 else 0


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
