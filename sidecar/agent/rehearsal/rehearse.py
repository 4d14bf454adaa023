"""The whole rehearsal: the record and two configurations in, plain data out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.agent.rehearsal.compare import CHANGES, Compared, agreement
from sidecar.agent.rehearsal.conditions import prepared
from sidecar.agent.rehearsal.recorded import Recorded, read
from sidecar.agent.rehearsal.replay import Replay
from sidecar.config.differences import Difference, differences
from sidecar.config.schema import Config
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.decisions import AGE
from sidecar.core.text import timestamp

#: Examples in all, at most.
MOST_EXAMPLES: Final = 24
#: Keys of a port that the record says nothing about, and why.
_NOT_KEYS: Final = {
    "balancer": "endpoints are those that were chosen",
    "hash": "endpoints are those that were chosen",
    "discover": "endpoints are those that there were",
    "endpoints": "endpoints are those that there were",
    "limits": "what was too large never became a decision, and sizes are not recorded",
    "host": "it decides nothing here",
    "timeout.idle": "how the bytes came is not recorded",
    "timeout.head": "how the bytes came is not recorded",
    "timeout.keepalive": "connections are not rehearsed",
    "bulkhead.max_tunnels": "tunnels are not rehearsed",
    "amqp": "messages are not recorded",
}


class Rehearsal:
    """``taken`` is the record (:meth:`sidecar.core.decisions.Segment.taken`), ``now`` and ``wall`` the recording
    clock's time and Unix time of one moment. ``told`` hears the share that is done."""

    def __init__(
        self, old: Config, new: Config, taken: Sequence[Mapping[str, Any]], salt: int, generation: int, now: float,
        wall: float, told: Callable[[float], None] = lambda share: None,
    ) -> None:  # fmt: skip
        self._old, self._new = old, new
        self._salt = salt
        self._generation = generation
        self._now, self._wall = now, wall
        self._share = told
        requests = [it for it in read(taken) if it.began >= now - AGE]
        self._tunnels = sum(_tunnel(it) for it in requests)
        self._requests = [it for it in requests if not _tunnel(it)]
        self._differences = differences(old, new)
        self._left: list[tuple[str, str]] = []
        self._unsure: Counter[str] = Counter()
        self._assumed = self._cut_short = 0
        self._done = self._todo = 0
        #: Requests since the last reload; those that the running settings decide as they did.
        self._checked = self._right = 0

    def run(self) -> dict[str, Any]:
        """Rehearse."""
        began = time.monotonic()
        of: dict[str, list[Recorded]] = {}
        for it in self._requests:
            of.setdefault(it.shape.listener, []).append(it)
        todo = [(name, found, self._ports(name)) for name, found in of.items()]
        self._todo = sum(len(found) * (2 if ports and ports[0] != ports[1] else 1) for _, found, ports in todo)
        compared = [self._compared(name, found, *ports) for name, found, ports in todo if ports]
        changed: Counter[str] = Counter()
        for one in compared:
            changed.update(one.changed)
        upstreams = [one.told() for one in compared]
        openings = [sum(it[key]["breaker_openings"] for it in upstreams) for key in ("before", "after")]
        examples = [e for one in compared for e in one.examples(self._differences, self._at)]
        return {
            "decisions": sum(it["requests"] for it in upstreams),
            "covered": self._covered(),
            "agreement": round(self._right / self._checked, 4) if self._checked else None,
            "agreement_of": self._checked,
            "changed": {**{kind: changed[kind] for kind in CHANGES}, "breaker_openings": openings[1] - openings[0]},
            "upstreams": upstreams,
            "differences": [it._asdict() for it in self._differences],
            "examples": examples[:MOST_EXAMPLES],
            "assumed": list(self._assumptions()),
            "not_rehearsed": [{"what": what, "reason": reason} for what, reason in self._not_rehearsed()],
            "seconds": round(time.monotonic() - began, 3),
        }

    def _ports(self, name: str) -> tuple[Inbound | Upstream, Inbound | Upstream] | None:
        """The listener's settings, before and after."""
        old, new = _port(self._old, name), _port(self._new, name)
        if old is None or new is None or new.protocol != "http":
            self._left.append((f"upstreams.{name}" if name else "inbound", "it would be gone, or speak no HTTP"))
            return None
        return old, new

    def _compared(self, name: str, found: list[Recorded], old: Any, new: Any) -> Compared:
        place = f"upstreams.{name}." if name else "inbound."
        known = {field for it in found for field in it.shape.names}
        before, _ = prepared(old, known)
        after, left = prepared(new, known)
        self._left += [(place + what, reason) for what, reason in left]
        first = self._replayed(name, before, found)
        second = first if before == after else self._replayed(name, after, found)
        recent = [it for it in found if it.generation == self._generation]
        # What settings before the last reload let through says nothing about those of now, and would use their tokens.
        check = first if len(recent) == len(found) else self._replayed(name, before, recent)
        self._right += agreement(recent, check)
        self._checked += len(recent)
        self._assumed += second.outcomes.assumed
        self._cut_short += second.outcomes.cut_short
        self._unsure[place] = sum(it is not None and not it.sure for it in second.results)
        return Compared(name, found, (before, first), (after, second))

    def _replayed(self, name: str, config: Inbound | Upstream, found: list[Recorded]) -> Replay:
        replay = Replay(name or self._old.service.name, config, found, self._salt)
        replay.run(lambda done: self._share(min((self._done + done) / self._todo, 1.0)))
        self._done += len(found)
        return replay

    def _covered(self) -> dict[str, Any]:
        if not self._requests:
            return {"from": None, "to": self._at(self._now), "seconds": 0.0}
        first = self._requests[0].began
        return {"from": self._at(first), "to": self._at(self._now), "seconds": round(self._now - first, 1)}

    def _at(self, when: float) -> str:
        return timestamp(self._wall - (self._now - when))

    def _assumptions(self) -> Iterator[str]:
        yield (
            "at the beginning of what is covered, buckets are full, breakers closed and nothing is under way; a "
            "breaker that is held by hand is left to itself"
        )
        if self._assumed:
            yield (
                f"{self._assumed} tries were never made; each is taken to go as the nearest one at that endpoint for "
                "the same path, or the nearest there is"
            )
        if self._cut_short:
            yield (
                f"{self._cut_short} tries were cut by a timeout and would have had longer; what they would have "
                "brought is not known, and they are taken to be silent"
            )

    def _not_rehearsed(self) -> Iterator[tuple[str, str]]:
        yield from self._left
        for it in self._differences:
            key = _key(it)
            for name, reason in _NOT_KEYS.items():
                if key == name or key.startswith(f"{name}."):
                    yield it.path, reason
        for name, upstream in self._old.upstreams.items():
            if upstream.protocol != "http":
                what = "messages" if upstream.protocol == "amqp" else "connections"
                yield f"upstreams.{name}", f"{what} are not recorded (protocol {upstream.protocol})"
        if self._tunnels:
            yield f"{self._tunnels} tunnels", "WebSockets and other upgrades are left out"
        for place, count in self._unsure.items():
            if count:
                yield (
                    f"{place}routes: {count} requests",
                    "a route goes by a field that was not recorded, or by more of a path than that; they are taken not "
                    "to match",
                )


def _port(config: Config, name: str) -> Inbound | Upstream | None:
    return config.upstreams.get(name) if name else config.inbound


def _tunnel(it: Recorded) -> bool:
    return it.upgrade and it.status == 101


def _key(it: Difference) -> str:
    """The key of a port that differs; empty: it is of none."""
    parts = it.path.split(".")
    return ".".join(parts[2:] if parts[0] == "upstreams" else parts[1:] if parts[0] == "inbound" else ())
