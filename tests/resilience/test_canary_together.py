"""Judges that hear of each other: together they find what none of them could tell, and no more mistakes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from sidecar.resilience import canary_judge, rollout
from sidecar.resilience.canary_counts import Known, Side
from sidecar.resilience.canary_evidence import Evidence
from sidecar.resilience.canary_judge import Guard, Judge, Verdict
from sidecar.simulate.scenarios import canary


def feed(side: Side, answers: int, bad: int = 0) -> None:
    for number in range(answers):
        side.told(0.01, number < bad, True)


def second(judges: list[Judge], now: float, bad: int = 0) -> list[Verdict]:
    """A second of four sidecars with little traffic; the first one has the bad answers."""
    for number, judge in enumerate(judges):
        feed(judge.old, 45)
        feed(judge.new, 5, bad if number == int(now) % len(judges) else 0)
    for judge in judges:
        judge.look(now)
    return canary._tell(judges)


def test_four_together_find_what_none_has_seen_enough_of() -> None:
    judges = [Judge(Guard(), 1, 3) for _ in range(4)]
    lonely = [Judge(Guard(), 1, 3) for _ in range(4)]
    for now in range(60):
        found = second(judges, float(now), bad=now % 2)
        for number, judge in enumerate(lonely):
            feed(judge.old, 45)
            feed(judge.new, 5, now % 2 if number == now % 4 else 0)
            assert not judge.look(float(now)).broken
        if any(it.broken for it in found):
            break
    (text,) = {it.broken for it in found}
    assert text.endswith("; 4 sidecars have counted"), "all of them at once, by the same"
    assert judges[0].sidecars == 4
    assert len({it.seen for it in judges}) == 1
    view = judges[0].view()
    assert (view["sidecars"], view["requests"]) == (4, 4 * view["requests_here"])


def test_requests_of_all_are_what_is_asked_for() -> None:
    judges = [Judge(Guard(0.1, 0.0, 100), 1, 3) for _ in range(4)]
    for now in range(4):
        assert second(judges, float(now))[0].waits.endswith("of at least 100 requests")
    for now in range(4, 20):
        found = second(judges, float(now))
    assert {it.good for it in found} == {True}
    assert judges[0].here.new == 100


def test_what_one_caller_alone_gets_is_found_though_all_others_are_well() -> None:
    judges = [Judge(Guard(), 1, 3) for _ in range(40)]
    broken = ""
    for now in range(60):
        for number, judge in enumerate(judges):
            feed(judge.old, 45, (now + number) % 9 == 0)
            feed(judge.new, 5, now % 2 if number == 0 else (now + number) % 80 == 0)
        for judge in judges:
            judge.look(float(now))
        found = canary._tell(judges)
        assert not any(it.broken for it in found[1:])
        broken = broken or found[0].broken
    assert broken.endswith("; one sidecar alone has seen this")


def test_what_is_gone_has_been_seen_all_the_same() -> None:
    judge = Judge(Guard(), 1, 3)
    others = {"a": Evidence(500, 0, 500, 0, 4500, 0, -50.0, -50.0, 2.0, 2.0)}
    judge.hear(others, Known(), None)
    judge.look(0.0)
    before = judge.view()
    judge.hear({}, Known(), None)
    assert judge.look(1.0).broken == ""
    assert judge.view() == before, "that what speaks for it is gone speaks not against it"
    judge.hear({"a": others["a"], "b": Evidence(1, 0, 0, 0, 9, 0, -0.1, 0.0, 0.1, 0.0)}, Known(), None)
    judge.look(2.0)
    assert (judge.sidecars, judge.seen.new) == (3, 501)


def test_who_cannot_be_heard_judges_by_what_it_sees() -> None:
    judge = Judge(Guard(), 1, 3)
    judge.hear({"a": Evidence(old=10)}, Known(), Evidence())
    feed(judge.new, 7)
    judge.look(0.0)
    assert (judge.here.new, judge.seen.new) == (7, 0), "others have not heard of these yet"
    judge.cut_off()
    judge.look(1.0)
    assert (judge.seen.new, judge.seen.old) == (7, 10)


def test_alone_it_does_not_wait_for_what_is_told() -> None:
    judge = Judge(Guard(), 1, 3)
    judge.hear({}, Known(), Evidence())
    feed(judge.new, 7)
    judge.look(0.0)
    assert judge.seen.new == 7


def test_so_many_are_heard_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_judge, "MOST", 3)
    judge = Judge(Guard(), 1, 3)
    judge.hear({str(number): Evidence(new=1) for number in range(9)}, Known(), None)
    judge.hear({"0": Evidence(new=5), "8": Evidence(new=5)}, Known(), None)
    judge.look(0.0)
    assert (judge.sidecars, judge.seen.new) == (4, 7)


def test_what_others_know_of_the_old_version_serves_one_that_was_restarted() -> None:
    elsewhere = Known()
    elsewhere.add(5000, 5, {100: 4990, 480: 10})
    judge = Judge(Guard(), 3, 3, alone=True)
    judge.hear({"a": Evidence(new=1)}, elsewhere, None)
    for now in range(5):
        feed(judge.new, 300)
        verdict = judge.look(float(now))
    assert verdict.good


@pytest.mark.parametrize("seed", range(3))
def test_unlike_callers_are_no_evidence(seed: int) -> None:
    """Where the one that is given more of the canary has more errors anyhow, a sum of counts would say that the canary
    has: 19 % against 1 %."""
    rng = Random(seed)
    judges = [Judge(Guard(), 1, 3) for _ in range(2)]
    for now in range(120):
        for judge, new, old, rate in ((judges[0], 50, 5, 0.2), (judges[1], 5, 200, 0.005)):
            feed(judge.new, new, sum(rng.random() < rate for _ in range(new)))
            feed(judge.old, old, sum(rng.random() < rate for _ in range(old)))
            assert not judge.look(float(now)).broken
        assert not any(it.broken for it in canary._tell(judges))


@pytest.mark.parametrize("name", canary.NEW)
def test_rollouts_of_each_kind_in_virtual_time(name: str) -> None:
    bad = canary.NEW[name][1]
    found = canary.many(1, name, 10, rate=200.0, each=60.0, look=5.0, callers=4)
    ends = Counter(it.phase for it in found)
    if bad:
        assert ends == {rollout.ROLLED_BACK: 10}
        assert max(it.failed for it in found) < 0.01
    else:
        assert ends == {rollout.DONE: 10}


def test_alone_it_is_compared_with_what_was_usual_for_this_caller() -> None:
    """One caller has 5 % errors and slow answers anyhow, all others hardly any: that is not the new version's fault."""
    here, elsewhere = Known(), Known()
    here.add(5000, 250, {600: 5000})
    elsewhere.add(50_000, 50, {300: 50_000})
    judge = Judge(Guard(), 3, 3, here, alone=True)
    for now in range(60):
        for number in range(20):
            judge.new.told(3.0, number == 0, True)
        judge.look(float(now))
        found = judge.hear({"a": Evidence(new=200 * now, timed=200 * now)}, elsewhere, judge.here)
        assert not found.broken
    assert found.good
    for now in range(60, 120):
        for number in range(20):
            judge.new.told(3.0, number < 4, True)
        found = judge.look(float(now))
        if found.broken:
            break
    assert found.broken.endswith("; one sidecar alone has seen this")
    assert "before it 250 of 5000 of the others" in found.broken


def test_an_older_note_takes_nothing_back() -> None:
    judge = Judge(Guard(), 1, 3)
    judge.hear({"a": Evidence(5000, 5, 0, 0, 50_000, 50, -80.0)}, Known(), Evidence())
    for now in (0.0, 61.0):  # a window begins
        feed(judge.new, 200)
        feed(judge.old, 200)
        judge.look(now)
    older = Evidence(500, 1, 0, 0, 5000, 5, -8.0)
    assert not judge.hear({"a": older}, Known(), judge.here).broken
    assert (judge.seen.new, judge.view()["evidence"]["more_errors"]) == (5400, 0.0)
