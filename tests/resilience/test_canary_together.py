"""Judges that hear of each other: together they find what none of them could tell, and no more mistakes."""

from __future__ import annotations

from collections import Counter
from math import log
from random import Random

import pytest

from sidecar.resilience import canary_judge, rollout
from sidecar.resilience.canary_counts import Known, Side, step_of
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


def callers(seconds: int, quick: float, slow: float) -> tuple[list[Judge], str]:
    """Four of equal size; the requests of the first take 20 ms, those of the others 2 s; to the canary the former take
    ``quick``, the latter ``slow``. What is said, at last."""
    rng = Random(3)
    judges = [Judge(Guard(), 1, 3) for _ in range(4)]
    for now in range(seconds):
        for number, judge in enumerate(judges):
            for side, count, long in ((judge.old, 90, 0.0), (judge.new, 10, slow if number else quick)):
                for _ in range(count):
                    side.told(long or (2.0 if number else 0.02) * rng.uniform(0.9, 1.0), False, True)
        for judge in judges:
            judge.look(float(now))
        found = canary._tell(judges)
        if any(it.broken for it in found):
            break
    return judges, next((it.broken for it in found if it.broken), "")


def test_what_is_slower_for_the_quick_caller_alone_is_found() -> None:
    """By what all of them know, p99 is 2 s; there nothing is slow."""
    judges, text = callers(60, quick=1.0, slow=1.9)
    assert "took more than 118 ms, or what that is for another caller; the others' p99 is 20 ms" in text
    judges, text = callers(60, quick=0.115, slow=2.05)
    assert text == "", "all of them within what is allowed"
    assert all(judge.verdict().good for judge in judges)
    assert [round(judge.view()["slow_above_ms"], -2) for judge in judges] == [100.0, 2100.0, 2100.0, 2100.0]


def test_who_knows_too_little_of_its_own_goes_by_what_all_know() -> None:
    judge = Judge(Guard(), 1, 3)
    elsewhere = Known()
    elsewhere.add(5000, 5, {step_of(1.0): 5000})
    judge.hear({"a": Evidence(old=5000)}, elsewhere, Evidence())
    limits = []
    for now in range(12):
        feed(judge.old, 90)
        judge.look(float(now))
        limits.append(judge.view()["slow_above_ms"])
    assert set(limits[:11]) == {limits[0]}
    assert limits[0] > 1000, "so far 990 are known"
    judge.look(12.0)
    assert judge.view()["slow_above_ms"] < 200


@pytest.mark.parametrize("rate", [0.001, 0.009, 0.05, 0.3])
def test_whatever_callers_know_a_canary_that_is_as_good_is_no_worse(rate: float) -> None:
    """Each chooses its line before it bets, so it may be any line: here it follows from latencies that have nothing to
    do with those to come. By Ville's inequality one bet in twenty gets to 20 at most."""
    rng, ends = Random(5), []
    for _ in range(300):
        judge = Judge(Guard(), 1, 3)
        judge.known.add(1000, 0, {step_of(rng.choice((0.005, 0.02, 0.2))): 1000})
        most = 0.0
        for now in range(5):
            for side, count in ((judge.old, 90), (judge.new, 10)):
                for _ in range(count):
                    side.told(1.0 if rng.random() < rate else 0.01, False, True)
            judge.look(float(now))
            most = max(most, judge.here.slower)
        ends.append(most)
    assert sum(it >= log(20) for it in ends) <= len(ends) / 20


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
