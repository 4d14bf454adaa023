"""A canary of sidecars that share a state: what counts, and what is done; they step, and roll back, together."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from sidecar.admin import report
from sidecar.agent.canary import Canary, Conflict
from sidecar.agent.canary_view import doubts
from sidecar.agent.canary_weights import hold, key_of, split_of, weights
from sidecar.agent.clusters import RunningUpstream
from sidecar.agent.snapshots import of_upstream
from sidecar.config.canary import CanarySettings
from sidecar.config.health import Health
from sidecar.config.subsets import Select
from sidecar.config.traffic import Discover, StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.operations import NotKnown
from sidecar.endpoints.metrics import canary_families
from sidecar.endpoints.names import Names
from sidecar.filters.retry import RetrySettings
from sidecar.resilience import rollout
from sidecar.resilience.rollout import NotNow
from sidecar.why.causes import cause_of
from support.canaries import BOTH, GUARD, SETTINGS, FakeStore, Sidecar, asked, shares
from support.http import Stage
from support.names import FakeResolver
from support.ports import changed
from support.registries import until


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


@pytest.mark.asyncio
async def test_over_the_admin_api() -> None:
    store = FakeStore()
    it = Sidecar(store)
    canaries: dict[str, Canary | None] = {"up": it.canary, "other": None}
    answer = await asked(canaries, "up", "promote")
    assert answer.data == {
        "phase": "running", "weight": 25, "revision": 2, "reason": "it was promoted by hand",
        "by": "an operator at 10.9.9.9",
    }  # fmt: skip
    assert (await asked(canaries, "up", "resume")).status == 409
    (value,) = store.values
    value.silent = True
    answer = await asked(canaries, "up", "promote")
    assert (answer.status, answer.data["message"]) == (
        503,
        "the canary of up: the registry cannot be asked, or has not said what came of it: it took too long",
    )
    store.away = True
    assert (await asked(canaries, "up", "promote")).status == 503
    for name, action in (("other", "promote"), ("nothing", "pause"), ("up", "fly")):
        with pytest.raises(NotKnown):
            await asked(canaries, name, action)


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
