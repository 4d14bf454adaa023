"""What sidecars tell each other of a canary they share: when, what becomes of it, and what is left of it."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from sidecar.agent import canary_pool
from sidecar.config.canary import CanarySettings
from sidecar.config.traffic import Upstream
from sidecar.registry import Found
from sidecar.resilience import rollout
from sidecar.resilience.canary_counts import Known
from sidecar.resilience.canary_evidence import Evidence, Step, decode, encode
from support.canaries import GUARD, SETTINGS, FakeStore, Sidecar, run_now

#: For which each of four has too little in what they do below.
MANY = CanarySettings(subset="next", each=10.0, guard=replace(GUARD, min_requests=100))


def fleet(store: FakeStore, count: int = 4, **more: Any) -> list[Sidecar]:
    return [Sidecar(store, f"caller-{number}", **{"canary": MANY, **more}) for number in range(count)]


def second(sidecars: list[Sidecar], bad: int = 0, new: int = 5) -> None:
    """A second of all, with little for each; so many of those to the new version fail."""
    for it in sidecars:
        it.answers("stable", 45)
        it.answers("next", new, bad)
        it.passes(1.0)


def test_they_roll_back_together_what_none_of_them_could_tell() -> None:
    store = FakeStore()
    sidecars = fleet(store)
    for _ in range(8):  # five requests to each, a second, are 100 after five seconds
        second(sidecars, bad=2)
    assert [it.told["phase"] for it in sidecars] == ["rolled_back"] * 4
    assert store.state.reason.endswith("; 4 sidecars have counted")


def test_what_they_have_seen_together_is_proof_for_the_next_step() -> None:
    store = FakeStore()
    sidecars = fleet(store)
    for _ in range(14):
        second(sidecars)
    assert (store.state.weight, store.state.reason) == (25, "it does as well as the others; 4 sidecars have counted")
    told = sidecars[0].told["judged"]
    assert (told["sidecars"], told["shared"]) == (4, True)
    assert told["requests"] < 100, "what was seen in the step before does not count in this one"


def test_one_without_traffic_of_its_own_goes_by_that_of_others() -> None:
    store = FakeStore()
    idle, *others = fleet(store, 5)
    for _ in range(8):
        second(others, bad=2)
        idle.passes(1.0)
        if store.state.phase == rollout.ROLLED_BACK:
            break
        assert idle.canary.sidecars in (0, 1, 5)
    assert idle.told["phase"] == "rolled_back"


def test_what_was_seen_by_one_that_is_gone_counts() -> None:
    store = FakeStore()
    gone, last = fleet(store, 2)
    for _ in range(15):
        second([gone], bad=1)
    gone.canary.close()
    assert store.state.phase == rollout.RUNNING
    for _ in range(60):
        second([last], bad=1)
        if store.state.phase != rollout.RUNNING:
            break
    assert store.state.reason.endswith("; 2 sidecars have counted")
    assert last.canary.state == store.state


def test_while_the_registry_is_away_each_goes_by_what_it_sees_and_says_so() -> None:
    store = FakeStore()
    one, two = fleet(store, 2)
    for _ in range(3):
        second([one, two])
    store.away = True
    second([one], bad=1)
    assert one.told["judged"]["shared"] is False
    assert one.told["waits_for"] == "25 of at least 100 requests; the registry is away, so others tell nothing now"
    for _ in range(30):
        second([one], bad=3)
    assert (one.told["phase"], one.told["told"], two.told["phase"]) == ("rolled_back", False, "running")


def test_nothing_is_told_that_has_not_changed_and_less_often_with_time() -> None:
    store = FakeStore()
    it, other = fleet(store, 2, canary=replace(SETTINGS, each=3600.0))
    for _ in range(3):
        second([it, other])
    (mine,) = [found for who, found in store.notes.items() if who == it.canary.pool._who]
    it.passes(5.0)
    assert store.notes[it.canary.pool._who] == mine, "there is nothing new"
    before = store.exchanges
    for _ in range(60):
        second([it], new=1)
    assert 50 <= store.exchanges - before <= 61
    for _ in range(600):
        second([it], new=1)
    before = store.exchanges
    for _ in range(60):
        second([it], new=1)
    assert store.exchanges - before <= 7


def test_notes_of_other_steps_and_other_guards_are_not_read_and_some_day_removed() -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    state = store.state
    guard = (GUARD.error_rate, GUARD.p99)
    here = Step(state.attempt, state.weight, state.since, *guard)
    for number, step in enumerate(
        [
            here._replace(attempt=9), here._replace(weight=25), here._replace(since=1.0), here._replace(p99=0.5),
            here._replace(error_rate=0.5),
        ]
    ):  # fmt: skip
        store.notes[f"{number:016x}"] = Found(encode(step, Evidence(new=1000), Known()), 0)
    store.notes["f" * 16] = Found(b"[]", 0)
    store.notes["e" * 16] = Found(encode(here, Evidence(new=5), Known()), 0)
    for _ in range(3):
        second([it])
    assert it.told["judged"]["requests"] == 20, "of them five that one other has seen"
    assert it.canary.sidecars == 2
    it.passes(31.0)
    assert sorted(store.notes) == sorted(["e" * 16, it.canary.pool._who])


def test_when_it_is_over_nothing_is_left() -> None:
    store = FakeStore()
    sidecars = fleet(store, 2)
    store.notes["f" * 16] = Found(b"{}", 0)
    second(sidecars)
    assert len(store.notes) == 3
    run = sidecars[0].canary.act("rollback", "ann")
    with pytest.raises(StopIteration):
        run.send(None)
    for it in sidecars:
        it.passes(2.0)
    assert list(store.notes) == ["f" * 16]
    for it in sidecars:
        it.passes(70.0)
    assert store.notes == {}
    before = store.exchanges
    sidecars[0].passes(600.0)
    assert store.exchanges == before, "there is nothing to look for"


def test_of_too_many_those_that_say_nothing_new_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_pool, "MOST", 3)
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    state = store.state
    here = Step(state.attempt, state.weight, state.since, GUARD.error_rate, GUARD.p99)
    for number in range(4):
        store.notes[f"{number:016x}"] = Found(encode(here, Evidence(new=1), Known()), 0)
    second([it])
    it.passes(100.0)
    assert len(store.notes) == 5
    it.passes(3600.0)
    assert list(store.notes) == [it.canary.pool._who]


def test_what_goes_wrong_is_told_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    works = store.exchange

    async def fails(*_: Any) -> dict[str, Found]:
        raise OSError("Consul's answer is no list of values")

    caplog.set_level(logging.INFO, "sidecar.canary")
    caplog.clear()
    monkeypatch.setattr(store, "exchange", fails)
    for _ in range(30):
        second([it])
    assert it.told["judged"]["shared"] is False
    monkeypatch.setattr(store, "exchange", works)
    for _ in range(5):
        second([it])
    begins, ends = [record for record in caplog.records if "what others have seen" in record.message]
    assert begins.message.endswith(
        "cannot be read (OSError: Consul's answer is no list of values); it is judged by what is seen here"
    )
    assert (begins.levelname, begins.exc_info, ends.levelname) == ("WARNING", None, "INFO")
    assert ends.message.endswith("can be read again")


def test_what_comes_and_goes_is_not_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    it = Sidecar(store, canary=replace(MANY, each=3600.0))
    caplog.set_level(logging.INFO, "sidecar.canary")
    for number in range(100):
        store.away = number % 2 == 0
        second([it])
    told = [record for record in caplog.records if "what others have seen" in record.message]
    assert 8 <= len(told) <= 14


def test_a_fault_of_its_own_is_told_with_where_it_was(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)

    async def fails(*_: Any) -> dict[str, Found]:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "exchange", fails)
    for _ in range(5):
        second([it])
    (told,) = [record for record in caplog.records if record.exc_info]
    assert "(ZeroDivisionError)" in told.message
    caplog.clear()
    it.canary.pool.close()
    it.passes(5.0)
    assert caplog.text == ""


def test_that_old_notes_cannot_be_removed_is_not_that_the_registry_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    it = Sidecar(store, canary=replace(MANY, each=3600.0))
    works, asked = store.erase, 0

    async def fails(*_: Any) -> None:
        nonlocal asked
        asked += 1
        raise OSError("permission denied")

    monkeypatch.setattr(store, "erase", fails)
    store.notes["f" * 16] = Found(b"[]", 0)
    for _ in range(40):
        second([it])
    assert asked > 1
    assert it.told["judged"]["shared"] is True
    assert "away" not in it.told["waits_for"]
    assert "f" * 16 in store.notes
    monkeypatch.setattr(store, "erase", works)
    second([it])
    assert list(store.notes) == [it.canary.pool._who]


def test_a_note_says_what_was_seen_here() -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    second([it], bad=1)
    (note,) = [decode(found.data or b"") for found in store.notes.values()]
    assert note.evidence[:6] == (5, 1, 0, 0, 45, 0)
    assert (note.known.answers, note.known.timed) == (45, 45)


def test_by_another_guard_it_is_judged_anew() -> None:
    it = Sidecar(FakeStore(), canary=replace(MANY, each=3600.0))
    for _ in range(30):
        second([it])
    assert it.told["judged"]["evidence"]["no_more_errors"] == 1.0
    config = cast(Upstream, it.config)
    it.canary.change(replace(config, canary=replace(MANY, guard=replace(MANY.guard, min_requests=50))))
    assert it.told["judged"]["requests"] == 150, "that says nothing of what is allowed"
    it.canary.change(replace(config, canary=replace(MANY, guard=replace(MANY.guard, error_rate=0.01))))
    assert it.told["judged"]["evidence"]["no_more_errors"] == 0.0
    second([it])
    assert (it.told["judged"]["requests"], it.told["judged"]["others_requests"]) == (5, 45)


def test_a_note_that_somebody_has_removed_is_told_again() -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    second([it])
    (before,) = store.notes.values()
    store.notes.clear()
    it.passes(3.0)
    (after,) = store.notes.values()
    assert after.data == before.data


def test_an_exchange_that_hangs_is_one_that_fails() -> None:
    store = FakeStore()
    one, two = fleet(store, 2, canary=replace(MANY, each=3600.0))
    second([one, two])
    second([one, two])
    hanging: list[Any] = []
    one.canary.pool._timing.spawn = hanging.append
    for _ in range(30):
        second([one])
    assert len(hanging) == 1, "no other one is begun meanwhile"
    told = one.told["judged"]
    assert (told["shared"], told["requests"]) == (False, 5 * 32 + 5)
    run_now(hanging.pop())
    assert one.told["judged"]["shared"] is True


def ends(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it is over with its next part."""
    try:
        work.send(None)
    except StopIteration:
        return True
    return False


def test_many_notes_are_read_in_parts() -> None:
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    state = store.state
    here = Step(state.attempt, state.weight, state.since, GUARD.error_rate, GUARD.p99)
    for number in range(2 * canary_pool.AT_ONCE):
        store.notes[f"{number:016x}"] = Found(encode(here, Evidence(new=1), Known()), 0)
    reading: list[Any] = []
    it.canary.pool._timing.spawn = reading.append
    second([it])
    parts = 1
    while not ends(reading[0]):
        parts += 1
        second([it], new=0)
        assert it.canary.sidecars == 1, "they are judged by together"
    assert parts == 5, "what is read of each, and then counted, in two parts"
    assert it.told["judged"]["requests"] == 2 * canary_pool.AT_ONCE + 5


def test_who_has_nothing_to_tell_leaves_no_note() -> None:
    """One that is started again and again would leave one each time."""
    store = FakeStore()
    it = Sidecar(store, canary=MANY)
    it.passes(5.0)
    assert store.notes == {}
    assert it.told["judged"]["shared"] is True
    second([it])
    assert list(store.notes) == [it.canary.pool._who]
