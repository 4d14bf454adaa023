"""The spool of an AMQP port, as plain data."""

from __future__ import annotations

from collections import Counter
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.text import utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.amqp.views.protocols import SpoolKey, SpoolView

#: Keys that are listed one by one; all of them are counted.
MAX_KEYS: Final = 200
#: Likewise, connections that cannot be made.
MAX_OBSTACLES: Final = 20


def state(view: SpoolView | None) -> dict[str, Any] | None:
    """Everything about one but its messages; None when there is none."""
    if view is None:
        return None
    dead = view.dead_letters
    return {
        "messages": view.messages,
        "bytes": view.bytes,
        "max_bytes": view.max_bytes,
        "full": view.full,
        "problem": utf8(view.problem),
        "still_seconds": round(view.still, 3),
        "parked": view.parked,
        "obstacles": [
            {"vhost": utf8(vhost), "user": utf8(user), "problem": utf8(problem)}
            for vhost, user, problem in view.obstacles[:MAX_OBSTACLES]
        ],
        "spooled": view.spooled,
        "replayed": view.replayed,
        "expired": view.expired,
        "corrupt": view.corrupt,
        "acks": dict(view.acks),
        "keys": len(view.keys),
        "waiting": keys(view.keys),
        "dead_letters": {
            "messages": dead.count,
            "bytes": dead.bytes,
            "dropped": dead.dropped,
            "reasons": reasons(dead.reasons),
        },
    }


def keys(found: Mapping[tuple[str, str], SpoolKey]) -> list[dict[str, Any]]:
    """What waits in which order; of too many those with the most messages."""
    largest = nlargest(MAX_KEYS, found.items(), key=lambda item: item[1].count)
    return [
        {"vhost": utf8(vhost), "lane": utf8(lane), "messages": key.count, "bytes": key.bytes}
        for (vhost, lane), key in largest
    ]


def reasons(found: Mapping[str, int]) -> dict[str, int]:
    """How many dead letters of each reason. Two may look the same once they are readable."""
    counted: Counter[str] = Counter()
    for reason, count in found.items():
        counted[utf8(reason)] += count
    return dict(counted.most_common())


def doubts(view: SpoolView) -> list[str]:
    """What is not as it should be, a phrase each."""
    if view.problem:
        return [f"the spool does not work: {utf8(view.problem)}"]
    found = ["the spool is full"] if view.full else []
    if view.messages and view.obstacles:
        found.append(f"what is in the spool waits: {utf8(view.obstacles[0][2])}")
    return found
