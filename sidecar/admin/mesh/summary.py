"""What one sidecar tells of itself for the map of the mesh, and how that is read: it may be anything that stands at an
address of the registry.

Latencies go as counts per bucket, because those of several instances add up and quantiles do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sidecar.admin import report
from sidecar.admin.commands import Commands
from sidecar.core.stats import BUCKETS
from sidecar.core.text import utf8

#: Edges of one sidecar, characters of a text, and the largest number that is believed.
MOST_EDGES: Final = 256
MOST_NAME: Final = 128
MOST_TEXT: Final = 200
_LARGEST: Final = 1 << 53
#: Seconds that a sidecar must have counted for, at least: a rate over next to no time is infinite.
_SHORTEST: Final = 0.001
_STATUSES: Final = ("healthy", "warning", "unhealthy")
_PROTOCOLS: Final = ("http", "grpc", "tcp", "amqp")

#: Seconds, requests, errors, counts per bucket.
Recent = tuple[float, int, int, list[int]]


class BadSummary(Exception):
    """It is none; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What passed: ``rate`` and ``errors`` per second, and of how long it took the counts per bucket."""

    rate: float
    errors: float
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Call:
    """What a sidecar measured of the calls to one service. ``flow`` is None where nothing was measured."""

    to: str
    protocol: str
    status: str
    problem: str
    flow: Flow | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One sidecar. ``problem``: why it did not say any of this itself (empty: it did); ``flow`` is what came in."""

    service: str
    id: str
    admin: str
    status: str
    problem: str
    flow: Flow | None
    calls: Sequence[Call]


def tell(commands: Commands, recent: Callable[[str | None], Recent | None]) -> dict[str, Any]:
    """What this sidecar answers to ``GET /mesh/self``."""
    upstreams = [commands.upstream(name) for name in commands.upstreams()[:MOST_EDGES]]
    snapshot = commands.snapshot()
    calls = []
    for it in upstreams:
        health = report.upstream_health(it)
        calls.append(
            {
                "to": it.service or it.name,
                "protocol": it.protocol,
                "status": health["status"],
                "problem": "" if health["status"] == "healthy" else utf8(health["output"])[:MOST_TEXT],
                **_passed(recent(it.name)),
            }
        )
    return {
        "service": snapshot.service,
        "id": snapshot.id,
        "status": report.health(snapshot, upstreams)["status"],
        **_passed(recent(None)),
        "calls": calls,
    }


def _passed(found: Recent | None) -> dict[str, Any]:
    if found is None or found[0] <= 0:
        return {"seconds": 0.0, "requests": 0, "errors": 0, "counts": []}
    seconds, requests, errors, counts = found
    return {"seconds": round(seconds, 3), "requests": requests, "errors": errors, "counts": counts}


def read(data: bytes, admin: str, service: str) -> Summary:
    """That of the sidecar of ``service`` at ``admin``. Raises :class:`BadSummary`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    return understand(found, admin, service)


def understand(found: object, admin: str, service: str) -> Summary:
    """The same of what is parsed. A sidecar speaks for the service only that it is registered for."""
    if not isinstance(found, Mapping) or not isinstance(found.get("calls"), list):
        raise BadSummary("what its sidecar answered is no summary")
    if found.get("service") != service:
        raise BadSummary("the sidecar at its address is of another service")
    if found.get("status") not in _STATUSES:
        raise BadSummary("what its sidecar answered has no status")
    calls = [call for it in found["calls"][:MOST_EDGES] if (call := _call(it)) is not None]
    return Summary(service, _text(found.get("id"), MOST_NAME), admin, found["status"], "", _flow(found), calls)


def _call(it: object) -> Call | None:
    if not isinstance(it, Mapping):
        return None
    to, protocol, status = _text(it.get("to"), MOST_NAME), it.get("protocol"), it.get("status")
    if not to or protocol not in _PROTOCOLS or status not in _STATUSES:
        return None
    return Call(to, protocol, status, _text(it.get("problem"), MOST_TEXT), _flow(it))


def _flow(it: Mapping[str, Any]) -> Flow | None:
    """None: it was not measured, or makes no sense."""
    seconds: Any = it.get("seconds")
    requests: Any = it.get("requests")
    errors: Any = it.get("errors")
    counts: Any = it.get("counts")
    if type(seconds) not in (int, float) or not _SHORTEST <= seconds < _LARGEST:
        return None
    if not _count(requests) or not _count(errors) or not isinstance(counts, list) or len(counts) != len(BUCKETS) + 1:
        return None
    if not all(map(_count, counts)):
        return None
    return Flow(requests / seconds, min(errors, requests) / seconds, counts)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _text(value: object, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""
