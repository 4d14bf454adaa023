"""The state of a canary that sidecars share: joins, outages, operators at once, and what cannot be read."""

from __future__ import annotations

import logging

import pytest

from sidecar.agent.canary import Away, Conflict
from sidecar.agent.canary_view import doubts
from sidecar.registry import Found
from sidecar.resilience import rollout
from sidecar.resilience.rollout import NotNow
from support.canaries import SETTINGS, FakeStore, Sidecar, asked


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
    assert (await asked({"up": one.canary}, "up", "resume")).status == 409
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
    for action_before in ("promote", "promote", "pause"):
        await old.canary.act(action_before, "ann")
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
