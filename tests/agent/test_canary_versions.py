"""The version that comes after a canary is done: it begins anew, also after a restart."""

from __future__ import annotations

import pytest

from sidecar.resilience import rollout
from support.canaries import FakeStore, Sidecar


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
