"""Compares two replays of the same requests: what would have been different, with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sidecar.agent.rehearsal.recorded import Recorded
from sidecar.agent.rehearsal.replay import UNENDED, Replay, Result
from sidecar.config.differences import Difference
from sidecar.config.traffic import Inbound, Upstream

#: What a request can be refused with by a policy, and the policy's section; then those of other codes.
REJECTED: Final = {"rate_limited": "rate_limit", "overloaded": "bulkhead", "circuit_open": "circuit_breaker"}
_SECTIONS: Final = {**REJECTED, "timeout": "timeout", "connect_timeout": "timeout"}
#: Kinds of changes.
CHANGES: Final = ("rejected", "admitted", "failed", "succeeded", "retried", "not_retried", "rerouted")
#: Examples of one kind at one listener, at most.
_EXAMPLES: Final = 3


class Compared:
    """What differs at one listener. ``name`` is the upstream's, empty: inbound."""

    def __init__(
        self,
        name: str,
        requests: Sequence[Recorded],
        before: tuple[Inbound | Upstream, Replay],
        after: tuple[Inbound | Upstream, Replay],
    ) -> None:
        self.name = name
        self._requests = requests
        self._before, self._after = before, after
        self.changed: Counter[str] = Counter()
        #: Requests whose results differ, with the kinds of changes.
        self._found: list[tuple[int, list[str]]] = []
        if before[1] is not after[1]:
            for number, (old, new) in enumerate(self._pairs()):
                kinds = list(self._kinds(old, new))
                if kinds:
                    self.changed.update(kinds)
                    self._found.append((number, kinds))

    def _pairs(self) -> Iterator[tuple[Result, Result]]:
        for old, new in zip(self._before[1].results, self._after[1].results, strict=True):
            yield old or UNENDED, new or UNENDED

    def _kinds(self, old: Result, new: Result) -> Iterator[str]:
        was, will = _state(old), _state(new)
        if was != will:
            if will == "rejected":
                yield "rejected"
            elif was == "rejected":
                yield "admitted"
            else:
                yield "failed" if will == "failed" else "succeeded"
        if new.attempts > max(old.attempts, 1):
            yield "retried"
        elif old.attempts > max(new.attempts, 1):
            yield "not_retried"
        if _route(self._before[0], old) != _route(self._after[0], new):
            yield "rerouted"

    def examples(self, differences: Sequence[Difference], wall: Callable[[float], str]) -> Iterator[dict[str, Any]]:
        """A few changes of each kind: first those of requests that the replay gets right with the running settings."""
        shown: Counter[str] = Counter()
        before, after = self._before[1].results, self._after[1].results
        for right in (True, False):
            for number, kinds in self._found:
                old, new = before[number] or UNENDED, after[number] or UNENDED
                it = self._requests[number]
                if as_it_was(it, old) is not right or shown[kinds[0]] >= _EXAMPLES:
                    continue
                shown[kinds[0]] += 1
                yield {
                    "at": wall(it.began),
                    "upstream": self.name or None,
                    "method": it.shape.method,
                    "path": it.shape.path.decode("latin-1"),
                    "changes": kinds,
                    "happened": _told(self._before[0], old),
                    "would": _told(self._after[0], new),
                    "setting": self._setting(kinds[0], old, new, differences),
                }

    def _setting(self, kind: str, old: Result, new: Result, differences: Sequence[Difference]) -> str | None:
        """The difference between the configurations that makes this one."""
        place = f"upstreams.{self.name}." if self.name else "inbound."
        if kind == "rerouted":
            section = "routes"
        elif kind in ("retried", "not_retried"):
            section = "retry"
        else:
            section = _SECTIONS.get(new.error) or _SECTIONS.get(old.error) or "retry"
        near = [it for it in differences if it.path.startswith(place)]
        for wanted in (f"{place}{section}", f"{place}routes", place):
            for it in near:
                if it.path.startswith(wanted):
                    return f"{it.path}: {it}"
        return None

    def told(self) -> dict[str, Any]:
        """The numbers of this listener, with either settings."""
        return {
            "name": self.name or None,
            "requests": len(self._requests),
            "changed": {kind: self.changed[kind] for kind in CHANGES},
            "before": _summary(*self._before),
            "after": _summary(*self._after),
        }


def agreement(requests: Sequence[Recorded], replay: Replay) -> int:
    """How many of the requests are decided in the replay as they were."""
    return sum(found is not None and as_it_was(it, found) for it, found in zip(requests, replay.results, strict=True))


def as_it_was(it: Recorded, found: Result) -> bool:
    """Whether a request ended in a replay as it did."""
    return (it.status, it.error, it.attempts, it.shape.route) == (
        found.status, found.error, found.attempts, found.route,
    )  # fmt: skip


def _state(it: Result) -> str:
    if it.error in REJECTED:
        return "rejected"
    if it.error or it.status >= 500 or not it.status:  # no status: it had no end by the end of the replay
        return "failed"
    return "fine"


def _route(config: Inbound | Upstream, it: Result) -> object:
    """What the route is for: numbers change when others come and go."""
    if it.route < 0:
        return None
    match = config.routes[it.route].match
    return match.path, match.methods, tuple(sorted(match.headers.items()))


def _label(config: Inbound | Upstream, it: Result) -> str:
    return f"routes[{it.route}] {config.routes[it.route].match.path}" if it.route >= 0 else ""


def _told(config: Inbound | Upstream, it: Result) -> dict[str, Any]:
    told: dict[str, Any] = {"status": it.status, "error": it.error or None, "attempts": it.attempts}
    if it.route >= 0:
        told["route"] = _label(config, it)
    return told


def _summary(config: Inbound | Upstream, replay: Replay) -> dict[str, Any]:
    results = [it or UNENDED for it in replay.results]
    states = Counter(_state(it) for it in results)
    rejected = Counter(it.error for it in results if it.error in REJECTED)
    return {
        "admitted": len(results) - states["rejected"],
        "rejected": dict(rejected),
        "failed": states["failed"],
        "retries": sum(max(it.attempts - 1, 0) for it in results),
        "breaker_openings": replay.openings,
        "routes": dict(Counter(_label(config, it) for it in results if it.route >= 0)),
    }
