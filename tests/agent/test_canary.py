"""The canaries of several sidecars that share a state: they step, and roll back, together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from sidecar.admin import report
from sidecar.agent.canary import Away, Canary, Conflict
from sidecar.agent.canary_operations import CanaryOperations
from sidecar.agent.canary_time import Timing
from sidecar.agent.canary_view import view_of
from sidecar.agent.canary_weights import hold, key_of, split_of, weights
from sidecar.agent.clusters import RunningUpstream
from sidecar.agent.snapshots import canary_doubts as doubts
from sidecar.agent.snapshots import of_upstream
from sidecar.config.canary import CanarySettings, GuardSettings
from sidecar.config.health import Health
from sidecar.config.subsets import Select
from sidecar.config.traffic import Discover, StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.operations import Answer, Call, NotKnown
from sidecar.endpoints.metrics import canary_families
from sidecar.endpoints.names import Names
from sidecar.filters.retry import RetrySettings
from sidecar.registry import Found
from sidecar.resilience import rollout
from sidecar.resilience.rollout import NotNow, State
from sidecar.why.causes import cause_of
from support.http import Stage
from support.names import FakeResolver
from support.ports import changed
from support.registries import until

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


def test_a_good_one_gets_all_step_by_step_and_all_sidecars_go_with_it() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    assert one.share == two.share == {"stable": 90, "next": 10}
    seen = []
    for _ in range(25):
        one.seconds(2)
        two.seconds(2)
        assert one.share == two.share
        if one.share["next"] not in seen:
            seen.append(one.share["next"])
    assert seen == [10, 25, 100]
    assert store.state.phase == rollout.DONE
    assert one.told["phase"] == "done"
    assert doubts(one.told) == []


def test_a_step_lasts_as_long_as_it_says() -> None:
    it = Sidecar(FakeStore())
    it.seconds(8)
    assert it.told["waits_for"].startswith("the end of the step, in ")
    assert it.share["next"] == 10
    it.seconds(4)
    assert it.share["next"] == 25


def test_a_bad_one_is_rolled_back_by_whoever_sees_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    one.seconds(20, bad=2)
    assert one.share == two.share == {"stable": 100, "next": 0}
    assert store.state.phase == rollout.ROLLED_BACK
    assert "requests failed" in store.state.reason
    assert "requests failed" in doubts(two.told)[0]
    assert sum("is rolled back" in it for it in caplog.messages) == 2, "once for each of the two"
    one.seconds(20)
    assert one.share["next"] == 0, "it stays so"


def test_a_slow_one_is_rolled_back() -> None:
    it = Sidecar(FakeStore(), canary=CanarySettings(subset="next"))
    for _ in range(30):
        it.answers("stable", 90)
        it.answers("next", 9)
        it.answers("next", 1, seconds=0.5)
        it.passes(1.0)
    assert it.told["phase"] == "rolled_back"
    assert "took more than" in it.told["reason"]


def test_what_came_of_kept_connections_and_other_endpoints_does_not_count() -> None:
    it = Sidecar(FakeStore())
    cluster = it.listener.cluster
    (new,) = [e for e in cluster.endpoints if e.subset == "next"]
    for watcher in cluster.watchers:
        watcher(new, 0.0, 0, "race")
    new.subset = ""
    for watcher in cluster.watchers:
        watcher(new, 0.0, 503, "")
    new.subset = "next"
    for watcher in cluster.watchers:
        watcher(new, 0.0, 0, "timeout")
    it.passes(1.0)
    assert it.told["judged"]["requests"] == it.told["judged"]["errors"] == 1


@pytest.mark.parametrize(("seconds", "slow"), [(0.05, 0), (0.5, 1)])
def test_what_a_hedge_has_outrun_is_no_answer_and_slow_where_it_was_slow_already(seconds: float, slow: int) -> None:
    it = Sidecar(FakeStore(), canary=CanarySettings(subset="next"))
    it.seconds(6)
    before = it.told["judged"]
    (new,) = [e for e in it.listener.cluster.endpoints if e.subset == "next"]
    for watcher in it.listener.cluster.watchers:
        watcher(new, seconds, 0, "hedged")
    counted = it.counted("next")
    it.passes(1.0)
    found = it.told["judged"]
    assert (found["requests"], found["errors"]) == (before["requests"], before["errors"])
    assert (before["slow"], found["slow"]) == (0, slow)
    assert it.counted("next") == counted == before["requests"]


def test_one_that_hangs_is_rolled_back_though_its_requests_are_hedged() -> None:
    it = Sidecar(FakeStore(), canary=CanarySettings(subset="next"))
    (new,) = [e for e in it.listener.cluster.endpoints if e.subset == "next"]
    for _ in range(30):
        it.answers("stable", 90)
        it.answers("next", 10)  # the hedge's answer among them
        for watcher in it.listener.cluster.watchers:
            watcher(new, 0.5, 0, "hedged")
        it.passes(1.0)
    assert it.told["phase"] == "rolled_back"
    assert "took more than" in it.told["reason"]


def test_what_fails_everywhere_counts_where_it_went_first() -> None:
    retry = RetrySettings(initial_delay=0.0, max_attempts=3, on=frozenset({"503"}), budget=None)
    it = Sidecar(FakeStore(), retry=retry, health=Health(eject=None))
    it.versions("v1", "v2")
    for _ in range(20):
        client = it.asks("GET /poison")
        for _ in range(3):
            for upstream in it.asked()[:1]:
                upstream.hears()
                upstream.answers(503)
                it.loop.settle()
        assert client.gets().status == 503
    it.passes(1.0)
    found = it.told["judged"]
    assert (found["requests"], found["errors"]) == (2, 2)
    assert (found["others_requests"], found["others_errors"]) == (18, 18)
    new, old = (it.counted(name) for name in ("next", "stable"))
    assert new + old > 20, "others were tries that followed"


def test_what_was_sent_over_a_kept_connection_that_had_closed_counts_where_it_went_then() -> None:
    it = Sidecar(FakeStore())
    it.versions("v2")

    client = it.asks("GET /a")
    (kept,) = it.asked()
    kept.hears()
    kept.answers(200)
    assert client.gets().status == 200
    client = it.asks("GET /b")
    kept.transport.lose(ConnectionResetError())  # it goes again, once, over a fresh connection
    it.loop.settle()
    (fresh,) = it.asked()
    assert fresh is not kept
    fresh.hears()
    fresh.transport.lose(ConnectionResetError())
    assert client.gets().status == 502
    it.passes(1.0)
    assert (it.told["judged"]["requests"], it.told["judged"]["errors"]) == (2, 1)


def test_by_hand_it_waits_for_an_operator(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = Sidecar(FakeStore(), canary=CanarySettings(subset="next", promote="manual", each=10.0, guard=GUARD))
    it.seconds(15)
    assert it.share["next"] == 10
    assert doubts(it.told) == ["the canary next waits for an operator: it can be promoted"]
    assert sum("can be promoted" in text for text in caplog.messages) == 1


@pytest.mark.asyncio
async def test_of_two_operators_at_once_one_promotes() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    versions = two.canary._version
    assert (await one.canary.act("promote", "ann")).weight == 25
    two.canary._version = versions  # it has not heard of that when it is asked
    two.canary.state = two.canary.state and two.canary.state._replace(weight=10)
    with pytest.raises(Conflict, match="somebody else"):
        await two.canary.act("promote", "bob")
    store.back()
    assert one.share == two.share == {"stable": 75, "next": 25}
    assert store.state.by == "ann"


@pytest.mark.asyncio
async def test_pause_resume_and_a_new_beginning() -> None:
    store = FakeStore()
    it = Sidecar(store)
    await it.canary.act("pause", "ann")
    it.seconds(15)
    assert (it.share["next"], it.told["waits_for"]) == (10, "an operator: it is paused")
    await it.canary.act("resume", "ann")
    it.seconds(2)
    assert it.share["next"] == 25, "it was judged meanwhile"
    assert of_canary(it) == ("next", 25)
    await it.canary.act("rollback", "ann")
    assert it.share["next"] == 0
    assert of_canary(it) is None
    with pytest.raises(NotNow):
        await it.canary.act("promote", "ann")
    assert (await it.canary.act("resume", "ann")).attempt == 2
    assert it.share["next"] == 10


def test_one_that_is_started_joins_at_the_step() -> None:
    store = FakeStore()
    one = Sidecar(store)
    one.seconds(15)
    assert one.share["next"] == 25
    store.away = True
    two = Sidecar(store, "two")
    assert two.share == {"stable": 100, "next": 0}, "until it knows"
    assert two.told["phase"] == "unknown"
    store.back()
    assert two.share["next"] == 25


@pytest.mark.asyncio
async def test_while_the_registry_is_away_it_stays_but_is_rolled_back() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    store.away = True
    one.seconds(15)
    assert one.share["next"] == 10, "nobody goes ahead"
    assert one.told["waits_for"] == "the registry"
    with pytest.raises(Away):
        await one.canary.act("promote", "ann")
    one.seconds(20, bad=2)
    assert (one.share["next"], two.share["next"]) == (0, 10)
    assert one.told["told"] is False
    assert one.told["phase"] == "rolled_back"
    store.back()
    one.passes(1.0)
    assert two.share["next"] == 0
    assert one.told["told"] is True


@pytest.mark.asyncio
async def test_a_resume_that_does_not_get_through_says_so_after_a_rollback_of_its_own() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    (mine, _) = store.values
    mine.cut = True
    one.seconds(20, bad=2)
    with pytest.raises(Away):
        await one.canary.act("resume", "ann")
    await two.canary.act("pause", "bob")
    mine.cut = False  # it has not heard of that yet
    with pytest.raises(Conflict, match="it is rolled back with 0 %"):
        await one.canary.act("resume", "ann")
    assert (one.share["next"], one.told["phase"], store.state.phase) == (0, "rolled_back", rollout.PAUSED)
    assert (await _asked({"up": one.canary}, "up", "resume")).status == 409
    store.back()
    one.passes(1.0)
    assert (await one.canary.act("resume", "ann")).attempt == 2
    assert one.share == two.share == {"stable": 90, "next": 10}


@pytest.mark.asyncio
async def test_rolled_back_by_hand_while_the_registry_is_away() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    store.away = True
    assert (await one.canary.act("rollback", "ann")).phase == rollout.ROLLED_BACK
    assert one.share["next"] == 0
    store.away = False
    await two.canary.act("promote", "bob")  # who does not know of it
    assert one.share["next"] == 0
    one.passes(1.0)
    assert two.share["next"] == 0
    assert store.state.reason == "it was rolled back by hand"


@pytest.mark.asyncio
async def test_a_new_attempt_is_not_rolled_back_for_the_one_before() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    store.away = True
    await one.canary.act("rollback", "ann")
    store.away = False
    await two.canary.act("rollback", "bob")
    assert one.told["told"] is True
    await two.canary.act("resume", "bob")
    one.passes(1.0)
    assert one.share["next"] == two.share["next"] == 10


def test_a_rollback_is_not_lost_when_others_found_it_done_meanwhile() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    store.values[0].cut = True
    one.seconds(20, bad=2)
    assert (one.share["next"], two.share["next"]) == (0, 10)
    two.seconds(45)
    assert (store.state.phase, two.share["next"]) == (rollout.DONE, 100)
    store.values[0].cut = False
    store.back()
    one.passes(1.0)
    assert store.state.phase == rollout.ROLLED_BACK
    assert "requests failed" in store.state.reason
    assert one.share["next"] == two.share["next"] == 0
    assert one.told["told"] is True


@pytest.mark.asyncio
async def test_with_the_highest_revision_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    highest = 1 << 53
    store.put(rollout.encode(store.state._replace(revision=highest, attempt=highest)))
    caplog.set_level(logging.INFO)
    await one.canary.act("promote", "ann")
    assert one.share == two.share == {"stable": 75, "next": 25}
    assert sum("gets 25 %" in text for text in caplog.messages) == 2
    one.seconds(20, bad=4)
    assert one.share == two.share == {"stable": 100, "next": 0}
    await two.canary.act("resume", "bob")
    one.passes(1.0)
    assert one.share == two.share == {"stable": 90, "next": 10}
    kept = store.state
    store.put(rollout.encode(rollout.begin((100,), "a backup", 0.0)))
    assert store.state == kept, "what was lost comes back as ever"


def test_a_registry_that_has_lost_it_gets_it_back() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    one.seconds(15)
    state = store.state
    assert state.weight == 25
    store.put(None)
    assert store.state == state
    store.put(rollout.encode(rollout.begin((10,), "a backup", 0.0)))
    assert store.state == state
    assert one.share == two.share == {"stable": 75, "next": 25}


@pytest.mark.asyncio
async def test_what_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    it = Sidecar(store)
    for _ in range(3):
        store.put(b'{"weight": 100}')
    assert it.share["next"] == 10
    assert sum("cannot be read" in text for text in caplog.messages) == 1
    assert doubts(it.told)[0].startswith("the canary next waits for an operator: its state cannot be read")
    fresh = Sidecar(store, "two")
    assert fresh.share["next"] == 0
    with pytest.raises(Away):
        await fresh.canary.act("promote", "ann")
    await fresh.canary.act("resume", "ann")
    assert store.state.weight == 10
    store.put(b"{}")
    await it.canary.act("rollback", "ann")
    assert store.state.phase == rollout.ROLLED_BACK
    assert it.share["next"] == fresh.share["next"] == 0


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_left_to_an_operator() -> None:
    store = FakeStore()
    it = Sidecar(store)
    it.seconds(8)
    store.put(b"{}")
    it.seconds(15)
    assert (store.found.data, it.share["next"]) == (b"{}", 10), "it would have had its next step"
    for action in ("promote", "pause"):
        with pytest.raises(NotNow, match=r"cannot be read, its phase is none; resume or rollback replace it"):
            await it.canary.act(action, "ann")
    assert store.found.data == b"{}"
    store.put(rollout.encode(rollout.begin((10,), "ann", 0.0)))
    it.seconds(2)
    assert it.share["next"] == 25, "it is as it was"
    store.put(b"{}")
    it.seconds(20, bad=3)
    assert (store.state.phase, it.share["next"]) == (rollout.ROLLED_BACK, 0), "but not when a guard is broken"


def test_what_cannot_be_read_is_not_replaced_by_what_was_owed_or_would_begin() -> None:
    store = FakeStore()
    it = Sidecar(store)
    it.seconds(45)
    assert store.state.phase == rollout.DONE
    (value,) = store.values
    value.cut = True
    it.canary.found(Found(None, 0))  # it was lost, and cannot be put there again
    value.cut = False
    store.put(b"{}")
    it.versions("v1", "v1")
    for _ in range(70):
        it.passes(1.0)
    assert store.found.data == b"{}"


@pytest.mark.asyncio
async def test_rolled_back_by_hand_where_nothing_was_read_yet(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    old, steps = Sidecar(store, "old"), SETTINGS.steps
    assert (old.share["next"], store.state.phase) == (steps[0], rollout.RUNNING)
    for _ in range(2):
        await old.canary.act("promote", "ann")
    store.put(b"{}")
    fresh = Sidecar(store, "fresh")
    caplog.set_level(logging.INFO)
    await fresh.canary.act("rollback", "bob")
    assert sum(text.endswith("gets nothing: it was rolled back by hand (bob)") for text in caplog.messages) >= 1
    for it in (old, fresh):
        it.passes(1.0)
    assert store.state.phase == rollout.ROLLED_BACK
    assert old.share["next"] == fresh.share["next"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("told_of_it", [True, False])
@pytest.mark.parametrize(("action", "phase"), [("rollback", rollout.ROLLED_BACK), ("resume", rollout.RUNNING)])
async def test_what_replaces_what_cannot_be_read_is_not_undone(action: str, phase: str, told_of_it: bool) -> None:
    store = FakeStore()
    old = Sidecar(store, "old")
    for asked in ("promote", "promote", "pause"):
        await old.canary.act(asked, "ann")
    (value,) = store.values
    value.cut = not told_of_it
    store.put(b"{}")
    fresh = Sidecar(store, "fresh")
    value.cut = True  # it hears of what is done a moment later
    assert (await fresh.canary.act(action, "bob")).phase == phase
    value.cut = False
    store.back()
    for it in (old, fresh):
        it.passes(3.0)
    assert (store.state.phase, store.state.by) == (phase, "bob")
    assert (
        old.share == fresh.share == ({"stable": 100, "next": 0} if action == "rollback" else {"stable": 90, "next": 10})
    )


@pytest.mark.asyncio
async def test_a_rollback_is_not_undone_where_the_registry_had_lost_the_state() -> None:
    store = FakeStore()
    old = Sidecar(store, "old")
    for _ in range(2):
        await old.canary.act("promote", "ann")
    (value,) = store.values
    value.cut = True
    store.put(None)
    fresh = Sidecar(store, "fresh")
    await fresh.canary.act("rollback", "bob")
    value.cut = False
    store.back()
    old.passes(3.0)
    assert store.state.phase == rollout.ROLLED_BACK
    assert old.share["next"] == fresh.share["next"] == 0


def test_the_next_version_begins_anew_when_the_one_before_is_gone() -> None:
    store = FakeStore()
    it = Sidecar(store)
    it.seconds(45)
    assert (store.state.phase, it.share["next"]) == (rollout.DONE, 100)
    it.versions("v1", "v1")
    it.passes(1.0)
    assert it.share == {"stable": 100, "next": 0}, "the others get what it cannot"
    for _ in range(70):
        it.passes(1.0)
    assert (store.state.phase, store.state.attempt, it.share["next"]) == (rollout.RUNNING, 2, 10)


def test_who_has_not_seen_its_instances_does_not_begin_anew() -> None:
    store = FakeStore()
    one, two = Sidecar(store), Sidecar(store, "two")
    two.versions("v1", "v1")  # and it discovers no others
    one.seconds(45)
    assert store.state.phase == rollout.DONE
    for _ in range(70):
        two.passes(1.0)
    assert (store.state.phase, store.state.attempt) == (rollout.DONE, 1)
    one.versions("v1", "v1")
    for _ in range(30):
        one.passes(1.0)
    store.put(rollout.encode(store.state._replace(attempt=2)))  # others have seen the next one meanwhile
    for _ in range(70):
        one.passes(1.0)
    assert (store.state.phase, store.state.attempt) == (rollout.DONE, 2)


def restarted(store: FakeStore, *versions: str) -> Sidecar:
    """A sidecar that finds it done, and at first only those instances."""
    first = Sidecar(store)
    first.seconds(45)
    assert store.state.phase == rollout.DONE
    first.canary.close()
    it = Sidecar(store, "restarted")
    it.versions(*versions)
    return it


def test_the_next_version_begins_anew_also_after_a_restart() -> None:
    store = FakeStore()
    it = restarted(store, "v1", "v1")
    for _ in range(70):
        it.passes(1.0)
    assert (store.state.phase, it.share["next"]) == (rollout.DONE, 0)
    store.away = True
    it.versions("v1", "v1", "v2")
    it.passes(5.0)
    assert it.share["next"] == 0, "it gets nothing until it begins"
    store.back()
    it.passes(1.0)
    assert (store.state.phase, store.state.attempt, it.share["next"]) == (rollout.RUNNING, 2, 10)
    it.seconds(45)
    it.passes(70.0)
    assert (store.state.phase, store.state.attempt, it.share["next"]) == (rollout.DONE, 2, 100)


@pytest.mark.parametrize(
    ("at_first", "seconds", "later"),
    [
        (("v1", "v2"), 70, ("v1", "v2", "v2")),  # it is there
        (("v1",), 30, ("v1", "v2")),  # it is back soon
        ((), 70, ("v1", "v2")),  # nothing was known yet
        (("v1",), 70, ("v2",)),  # there is nothing else
    ],
)
def test_after_a_restart_what_was_promoted_goes_on(
    at_first: tuple[str, ...], seconds: int, later: tuple[str, ...]
) -> None:
    store = FakeStore()
    it = restarted(store, *at_first)
    it.passes(seconds)
    it.versions(*later)
    it.passes(5.0)
    assert (store.state.phase, store.state.attempt, it.share["next"]) == (rollout.DONE, 1, 100)
    if later[0] == "v2":
        it.versions("v1", "v2")
        it.passes(5.0)
        assert (store.state.phase, it.share["next"]) == (rollout.DONE, 100)


def test_an_instance_that_is_back_soon_begins_nothing() -> None:
    store = FakeStore()
    it = Sidecar(store)
    it.seconds(45)
    for _ in range(3):
        it.versions("v1", "v1")
        for _ in range(30):
            it.passes(1.0)
        it.versions("v1", "v1", "v2")
        it.passes(1.0)
    assert (store.state.phase, it.share["next"]) == (rollout.DONE, 100)


def test_without_a_registry_it_is_this_sidecars_alone() -> None:
    it = Sidecar(None)
    it.passes(0.0)
    assert it.share["next"] == 10
    it.seconds(15)
    assert it.share["next"] == 25
    it.canary.close()
    assert not it.loop.armed()


def test_other_settings_meanwhile() -> None:
    it = Sidecar(FakeStore())
    it.reload(canary=CanarySettings(subset="next", steps=(10, 50), each=5.0, guard=GUARD), split=(("stable", 1),))
    it.canary.change(it.config)  # type: ignore[arg-type]
    assert it.share["next"] == 10
    it.seconds(9)
    assert it.share["next"] == 50
    it.seconds(9)
    assert (it.share["next"], it.told["phase"]) == (50, "done")


@pytest.mark.asyncio
async def test_an_upstream_has_one_as_long_as_its_configuration_says() -> None:
    endpoints = tuple(
        StaticEndpoint(address=Address("127.0.0.1", port), tags=(tag,)) for port, tag in ((1, "v1"), (2, "v2"))
    )
    stage = Stage(subsets=BOTH, split=(("stable", 90), ("next", 10)), canary=SETTINGS)
    config = changed(cast(Upstream, stage.config), endpoints=endpoints)
    running = RunningUpstream(config, stage.listener, Names(FakeResolver(), 1.0, 60.0), by="one")
    assert shares(stage) == {"stable": 100, "next": 0}
    running.follow(None)
    try:
        first = running.canary
        assert first is not None
        await until(lambda: first.state is not None, "begun")
        assert shares(stage) == {"stable": 90, "next": 10}
        shown = of_upstream(running)
        assert shown.canary is not None
        assert (shown.canary["phase"], shown.canary["by"], shown.doubts) == ("running", "one", [])
        shown_as = report.upstream(shown)["canary"]
        assert shown_as["at"].endswith("Z")
        await first.act("rollback", "ann")
        shown = of_upstream(running)
        assert report.upstream_health(shown)["status"] == "warning"

        stage.reload(split=(("stable", 1),))
        running.config = changed(cast(Upstream, stage.config), endpoints=endpoints)
        running.follow_canary()
        assert running.canary is first
        assert shares(stage) == {"stable": 100, "next": 0}
        running.config = changed(running.config, subsets={**BOTH, "next": Select(tag="v3")})
        running.follow_canary()
        assert running.canary is not first, "another version begins with the first step"
        running.config = changed(running.config, canary=None)
        running.follow_canary()
        assert getattr(running, "canary", first) is None
        assert shares(stage) == {"stable": 100}
    finally:
        running.leave()


def of_canary(stage: Stage) -> tuple[str, int] | None:
    """What stories say of its subset."""
    subsets = stage.listener.cluster.subsets
    assert subsets is not None
    return subsets.canary


def shares(stage: Stage) -> dict[str, int]:
    """What the split gives each, of a hundred."""
    split = split_of(stage.listener)
    assert split is not None
    found = split.split.weights
    return {name: weight * 100 // sum(found.values()) for name, weight in found.items()}


def test_weights() -> None:
    assert weights({"a": 3, "b": 1, "next": 5}, "next", 20) == {"a": 240, "b": 80, "next": 80}
    assert weights({"a": 3}, "next", 100) == {"a": 0, "next": 300}


def test_until_the_state_is_known_it_gets_nothing() -> None:
    it = Stage(subsets=BOTH, split=(("stable", 90), ("next", 10)), canary=SETTINGS)
    hold(it.listener, it.config)  # type: ignore[arg-type]
    split = split_of(it.listener)
    assert split is not None
    assert split.split.weights == {"stable": 9000, "next": 0}


def test_the_name_of_the_state_tells_what_it_is_of() -> None:
    config: Any = Sidecar(FakeStore()).config
    own = key_of(config)
    assert own.startswith("canary-up-")
    assert key_of(changed(config, split=(("stable", 1),))) == own
    assert key_of(changed(config, subsets={**BOTH, "next": Select(tag="v3")})) != own
    discovered = changed(config, discover=Discover(service="tasks"))
    assert key_of(discovered).startswith("canary-tasks-")
    here, there, both = (
        tuple(StaticEndpoint(address=Address("10.0.0.1", port), tags=("v1",)) for port in ports)
        for ports in ((1,), (2,), (1, 2))
    )
    found = [key_of(changed(config, endpoints=it)) for it in (here, there, both)]
    assert len({own, *found}) == 4, "two upstreams that are only called alike have nothing in common"
    assert key_of(changed(config, endpoints=both[::-1])) == found[2]
    assert all(it.startswith("canary-up-") for it in found)


async def _asked(canaries: dict[str, Canary | None], name: str, action: str) -> Answer:
    async def read() -> bytes:
        return b""

    (operation,) = CanaryOperations(lambda: canaries).contribution().operations
    found = await operation.handler(Call({"name": name, "action": action}, [], "10.9.9.9", "", read))
    assert isinstance(found, Answer)
    return found


@pytest.mark.asyncio
async def test_over_the_admin_api() -> None:
    store = FakeStore()
    it = Sidecar(store)
    canaries: dict[str, Canary | None] = {"up": it.canary, "other": None}
    answer = await _asked(canaries, "up", "promote")
    assert answer.data == {
        "phase": "running", "weight": 25, "revision": 2, "reason": "it was promoted by hand",
        "by": "an operator at 10.9.9.9",
    }  # fmt: skip
    assert (await _asked(canaries, "up", "resume")).status == 409
    (value,) = store.values
    value.silent = True
    answer = await _asked(canaries, "up", "promote")
    assert (answer.status, answer.data["message"]) == (
        503,
        "the canary of up: the registry cannot be asked, or has not said what came of it: it took too long",
    )
    store.away = True
    assert (await _asked(canaries, "up", "promote")).status == 503
    for name, action in (("other", "promote"), ("nothing", "pause"), ("up", "fly")):
        with pytest.raises(NotKnown):
            await _asked(canaries, name, action)


def test_it_is_measured() -> None:
    family, judged = canary_families({"up": 25}, {"up": 4})
    assert (judged.name, next(iter(judged.samples))[-1]) == ("sidecar_canary_sidecars", 4)
    assert (family.name, next(iter(family.samples))[-1]) == ("sidecar_canary_weight", 0.25)


def test_a_story_says_that_its_request_was_the_canarys() -> None:
    it = Sidecar(FakeStore(), why=True)
    for _ in range(10):
        client = it.asks()
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(503)
        client.gets()
    tries = [event for story in it.stories for event in story["events"] if event["what"] == "attempt"]
    assert [(event["subset"], event.get("canary")) for event in tries].count(("next", 10)) == 1
    assert sum("canary" in event for event in tries) == 1
    (story,) = [story for story in it.stories if "canary" in str(story)]
    assert cause_of(story).sentence.endswith("it was sent to the canary next, which is tried with 10 % of the requests")
