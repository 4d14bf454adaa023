"""Sidecars with a canary each, which share its state in a registry that is made up."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sidecar.agent.canary import Canary
from sidecar.agent.canary_operations import CanaryOperations
from sidecar.agent.canary_time import Timing
from sidecar.agent.canary_view import view_of
from sidecar.agent.canary_weights import split_of
from sidecar.config.canary import CanarySettings, GuardSettings
from sidecar.config.subsets import Select
from sidecar.core.instance import Instance
from sidecar.core.operations import Answer, Call
from sidecar.registry import Found
from sidecar.resilience import rollout
from sidecar.resilience.rollout import State
from support.http import Stage

BOTH = {"stable": Select(tag="v1"), "next": Select(tag="v2")}
#: A coarse one, for which some fifty requests are enough.
GUARD = GuardSettings(error_rate=0.1, p99=0.0, min_requests=20)
SETTINGS = CanarySettings(subset="next", steps=(10, 25, 100), each=10.0, guard=GUARD)


class FakeStore:
    """A registry that keeps one value, as Consul does. While it is ``away`` it can neither be asked nor tells."""

    def __init__(self) -> None:
        self.found = Found(None, 0)
        self.away = False
        self.values: list[FakeValue] = []
        #: Of each sidecar, by its name; versions are numbers that go up.
        self.notes: dict[str, Found] = {}
        self.exchanges = 0

    def share(self, name: str, on_value: Callable[[Found], None]) -> FakeValue:
        value = FakeValue(self, on_value)
        self.values.append(value)
        return value

    def put(self, data: bytes | None) -> None:
        """It is so, and all hear of it."""
        assert isinstance(self.found.version, int)
        self.found = Found(data, self.found.version + 1)
        self.back()

    def back(self) -> None:
        """It answers again."""
        self.away = False
        for value in list(self.values):
            if not value.cut:
                value.on_value(self.found)

    async def exchange(self, name: str, who: str, data: bytes | None) -> dict[str, Found]:
        if self.away:
            raise OSError("connection refused")
        self.exchanges += 1
        if data is not None:
            self.notes[who] = Found(data, self.exchanges)
        return dict(self.notes)

    async def erase(self, name: str, notes: dict[str, object]) -> None:
        for who, version in notes.items():
            assert self.notes.pop(who).version == version

    @property
    def state(self) -> State:
        assert self.found.data is not None
        return rollout.decode(self.found.data)


class FakeValue:
    """See :class:`sidecar.registry.shared_value.SharedValue`."""

    def __init__(self, store: FakeStore, on_value: Callable[[Found], None]) -> None:
        self._store = store
        self.on_value = on_value
        #: It is away for this one alone; or says nothing to it.
        self.cut = self.silent = False

    async def put(self, data: bytes, seen: object) -> Found | None:
        store = self._store
        if store.away or self.cut:
            raise OSError("connection refused")
        if self.silent:
            raise TimeoutError
        if seen != store.found.version:
            return None
        store.put(data)
        return store.found

    def close(self) -> None:
        self._store.values.remove(self)


class Sidecar(Stage):
    """One of them, with two versions of the upstream behind it."""

    def __init__(self, store: FakeStore | None, name: str = "one", **more: Any) -> None:
        more.setdefault("canary", SETTINGS)
        more.setdefault("retry", None)
        super().__init__(subsets=BOTH, split=(("stable", 90), ("next", 10)), circuit_breaker=None, **more)
        self.versions("v1", "v1", "v2")
        self.canary = Canary(
            self.listener, self.config, name,  # type: ignore[arg-type]
            Timing(self.loop, lambda: 1.8e9, lambda seconds, do: self.loop.call_later(seconds, do), run_now),
        )  # fmt: skip
        self.canary.follow(store)  # type: ignore[arg-type]
        if store is not None and not store.away:
            store.values[-1].on_value(store.found)

    def versions(self, *tags: str) -> None:
        """Have an instance of each."""
        self.listener.cluster.update(
            Instance(host="10.0.0.1", port=port, tags=(tag,)) for port, tag in enumerate(tags, 1)
        )

    def answers(self, subset: str, count: int, bad: int = 0, seconds: float = 0.01) -> None:
        """So many of its answers come, as fast as that."""
        endpoint = next(it for it in self.listener.cluster.endpoints if it.subset == subset)
        for number in range(count):
            status = 503 if number < bad else 200
            for watcher in self.listener.cluster.watchers:
                watcher(endpoint, seconds, status, "")

    def seconds(self, count: int, bad: int = 0) -> None:
        """Time goes on, with a hundred answers each second, of which so many of the new version's are errors."""
        for _ in range(count):
            percent = self.canary.weight
            self.answers("stable", 100 - percent)
            self.answers("next", percent, bad)
            self.passes(1.0)

    def passes(self, seconds: float) -> None:
        """Time goes on here."""
        self.loop.run_until(self.loop.now + seconds)

    def counted(self, subset: str) -> int:
        """All tries that went there."""
        subsets = self.listener.cluster.subsets
        assert subsets is not None
        return sum(subsets.by_name[subset].requests.values())

    @property
    def share(self) -> dict[str, int]:
        """What the split gives each, of a hundred."""
        return shares(self)

    @property
    def told(self) -> dict[str, Any]:
        return view_of(self.canary)


def run_now(work: Coroutine[Any, Any, None]) -> None:
    """Nothing in it waits for anything."""
    with pytest.raises(StopIteration):
        work.send(None)


def shares(stage: Stage) -> dict[str, int]:
    """What the split gives each, of a hundred."""
    split = split_of(stage.listener)
    assert split is not None
    found = split.split.weights
    return {name: weight * 100 // sum(found.values()) for name, weight in found.items()}


async def asked(canaries: dict[str, Canary | None], name: str, action: str) -> Answer:
    async def read() -> bytes:
        return b""

    (operation,) = CanaryOperations(lambda: canaries).contribution().operations
    found = await operation.handler(Call({"name": name, "action": action}, [], "10.9.9.9", "", read))
    assert isinstance(found, Answer)
    return found
