"""The judge of a canary: when it says that a version is bad, when that it is good, and when nothing."""

from __future__ import annotations

from collections import Counter
from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience import rollout
from sidecar.resilience.canary_counts import Known, Side, limit_of, seconds_of, step_of
from sidecar.resilience.canary_evidence import Evidence
from sidecar.resilience.canary_judge import Guard, Judge, Verdict, part_of
from sidecar.simulate.scenarios import canary


def feed(side: Side, answers: int, bad: int = 0, slow: int = 0, quick: float = 0.01, long: float = 1.0) -> None:
    for number in range(answers):
        side.told(long if number < slow else quick, number >= answers - bad, True)


def judged(
    seconds: int, *, guard: Guard | None = None, old: tuple[int, int, int] = (270, 0, 0),
    new: tuple[int, int, int] = (30, 0, 0), judge: Judge | None = None,
) -> tuple[Judge, Verdict, int]:  # fmt: skip
    """A judge that has seen so many answers, bad ones and slow ones of each every second, until it says something."""
    judge = judge or Judge(guard or Guard(), 1, 3)
    verdict, second = judge.verdict(), 0
    for second in range(seconds):
        feed(judge.old, *old)
        feed(judge.new, *new)
        verdict = judge.look(float(second))
        if verdict.broken:
            break
    return judge, verdict, second


def test_latencies_are_told_apart_by_a_fortieth() -> None:
    for seconds in (1e-6, 0.0012, 0.1, 3.0, 500.0):
        assert seconds <= seconds_of(step_of(seconds)) <= seconds * 1.06
    assert step_of(0.0) == 0


def test_few_requests_say_nothing_however_bad_they_are() -> None:
    judge, verdict, _ = judged(3, new=(30, 30, 0))
    assert verdict == Verdict("", False, "90 of at least 100 requests")
    _, verdict, _ = judged(2, judge=judge, new=(30, 30, 0))
    assert verdict.broken == "120 of 120 requests failed (100.00%), of the others 0 of 1080 (0.00%)"


def test_few_requests_of_the_others_say_nothing_either() -> None:
    _, verdict, _ = judged(5, old=(5, 0, 0), new=(95, 95, 0))
    assert verdict == Verdict("", False, "25 of at least 100 requests of the others")


def test_more_errors_break_the_guard_within_a_window() -> None:
    rng = Random(7)
    judge = Judge(Guard(), 1, 3)
    for second in range(60):
        feed(judge.old, 270, sum(rng.random() < 0.001 for _ in range(270)))
        feed(judge.new, 30, sum(rng.random() < 0.011 for _ in range(30)))
        verdict = judge.look(float(second))
        if verdict.broken:
            break
    assert verdict.broken.startswith(f"{judge.seen.new_bad} of {judge.seen.new} requests failed")


def test_slower_answers_break_the_guard() -> None:
    _, verdict, _ = judged(60, old=(300, 0, 2), new=(150, 0, 1), guard=Guard(p99=0.2))
    assert not verdict.broken, "as long as the same share of both is slow it is no news"
    judge = Judge(Guard(p99=0.2), 1, 3)
    for second in range(60):
        feed(judge.old, 270)
        feed(judge.new, 30, slow=second % 2, long=0.5)
        verdict = judge.look(float(second))
        if verdict.broken:
            break
    assert "took more than" in verdict.broken
    assert "the others' p99 is 1" in verdict.broken


def test_what_is_slower_but_within_the_guard_is_not_rolled_back() -> None:
    """Each answer takes fifty times as long as most of the old version's, and none longer than its p99 and what is
    allowed: that is far from as good, and not forbidden."""
    judge, verdict, _ = judged(300, old=(270, 0, 3), new=(30, 0, 30), guard=Guard(p99=0.2))
    assert not verdict.broken, "the old version's slow ones take as long"
    judge = Judge(Guard(p99=0.1), 1, 3)
    for second in range(300):
        feed(judge.old, 270, slow=5, quick=0.02, long=0.2)
        feed(judge.new, 30, slow=30, long=0.29)
        verdict = judge.look(float(second))
        assert not verdict.broken
    assert verdict.good
    assert judge.view()["evidence"]["slower"] == 0.0


def test_as_good_is_good_when_there_is_proof() -> None:
    judge, verdict, _ = judged(5)
    assert not verdict.good
    assert verdict.waits.startswith("requests that tell more about")
    judge, verdict, _ = judged(60, judge=judge)
    assert verdict == Verdict("", True, "")
    assert judge.judged(30.0) == 30.0
    view = judge.view()
    assert (view["requests"], view["errors"]) == (65 * 30, 0)
    assert view["evidence"]["no_more_errors"] == view["evidence"]["not_slower"] == 1.0


def test_the_reason_names_the_p99_that_it_goes_by() -> None:
    here, elsewhere = Known(), Known()
    here.add(5000, 0, {step_of(0.01): 5000})
    elsewhere.add(5000, 0, {step_of(3.0): 5000})
    judge = Judge(Guard(), 3, 3, here, alone=True)
    judge.hear({"other": Evidence()}, elsewhere, None)
    _, verdict, _ = judged(60, old=(0, 0, 0), new=(30, 0, 15), judge=judge)
    assert "took more than 109 ms, or what that is for another caller;" in verdict.broken
    assert "the others' p99 is 10 ms, and 100 ms more are allowed" in verdict.broken


def test_it_shows_what_it_goes_by() -> None:
    judge, _, _ = judged(5, old=(9, 2, 1), new=(4, 1, 1))
    view = judge.view()
    assert (view["sidecars"], view["requests"], view["requests_here"], view["others_requests"]) == (1, 20, 20, 45)
    assert (view["errors"], view["errors_here"], view["others_errors"]) == (5, 5, 10)
    assert set(view) == {
        "sidecars", "requests", "errors", "requests_here", "errors_here", "others_requests", "others_errors",
        "slow_above_ms", "slow", "evidence",
    }  # fmt: skip
    assert set(view["evidence"]) == {
        "more_errors", "slower", "more_errors_here", "slower_here", "no_more_errors", "not_slower",
    }  # fmt: skip
    assert all(0.0 <= part <= 1.0 for part in view["evidence"].values())
    assert all(round(part, 3) == part for part in view["evidence"].values())


def test_with_little_traffic_a_coarse_guard_is_enough() -> None:
    judge, verdict, _ = judged(90, guard=Guard(0.1, 0.0, 20), old=(9, 0, 1), new=(1, 0, 1))
    assert verdict.good, "latencies are not asked"
    assert judge.view()["slow_above_ms"] is None


def test_what_becomes_bad_late_is_found_all_the_same() -> None:
    judge = Judge(Guard(), 1, 3)
    for second in range(300):
        feed(judge.old, 90)
        feed(judge.new, 10)
        assert not judge.look(float(second)).broken
    for second in range(300, 420):
        feed(judge.old, 90)
        feed(judge.new, 10, bad=1)
        verdict = judge.look(float(second))
        assert not verdict.good or second < 320, "when it may be worse it gets no more"
        if verdict.broken:
            break
    assert verdict.broken
    assert second <= 300 + 60


def test_with_all_requests_it_is_compared_with_what_was() -> None:
    known = Known()
    known.add(5000, 5, {step_of(0.01): 4990, step_of(0.2): 10})
    judge = Judge(Guard(), 3, 3, known, alone=True)
    judge, verdict, _ = judged(5, judge=judge, old=(0, 0, 0), new=(300, 0, 0))
    assert verdict.good
    _, verdict, _ = judged(30, judge=judge, old=(0, 0, 0), new=(300, 6, 0))
    assert verdict.broken.endswith("before it 5 of 5000 of the others")
    judge = Judge(Guard(), 3, 3, known, alone=True)
    _, verdict, _ = judged(30, judge=judge, old=(0, 0, 0), new=(300, 0, 30))
    assert "took more than" in verdict.broken


@pytest.mark.parametrize(("guard", "answers"), [(Guard(), 0), (Guard(), 99), (Guard(), 299), (Guard(p99=0.0), 99)])
def test_who_has_not_seen_the_others_does_not_judge_one_that_gets_all(guard: Guard, answers: int) -> None:
    known = Known()
    known.add(answers, 0, {step_of(0.01): answers})
    judge = Judge(guard, 3, 3, known, alone=True)
    _, verdict, _ = judged(5, judge=judge, old=(0, 0, 0), new=(300, 0, 0))
    assert verdict == Verdict("", False, "those who know what the others did: it is not known here")
    judge.known.add(300, 0, {step_of(0.01): 300})
    _, verdict, _ = judged(5, judge=judge, old=(0, 0, 0), new=(300, 0, 0))
    assert verdict.good


def test_errors_of_one_that_gets_all_are_judged_before_latencies_can_be() -> None:
    known = Known()
    known.add(200, 0, {step_of(0.01): 200})
    _, verdict, _ = judged(5, judge=Judge(Guard(), 3, 3, known, alone=True), old=(0, 0, 0), new=(300, 300, 0))
    assert verdict.broken.endswith("before it 0 of 200 of the others")


def test_p99_of_nothing_and_of_little() -> None:
    known = Known()
    assert known.p99() == 0
    known.add(1, 0, {7: 1})
    assert step_of(known.p99()) == 7
    known.add(1000, 0, {3: 1000})
    assert step_of(known.p99()) == 3


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.2003, 7.0])
def test_p99_is_told_within_a_step(seconds: float) -> None:
    """A step is a fortieth."""
    known = Known()
    for number in range(10_000):
        known.add(1, 0, {step_of(seconds * exp((number - 9900) / 1000)): 1})
    assert known.p99() == pytest.approx(seconds, rel=0.002)


@given(st.floats(1e-5, 1000), st.floats(0, 1000))
def test_nothing_is_quick_that_is_slower_than_allowed(p99: float, allowed: float) -> None:
    limit = limit_of(p99, allowed)
    assert limit >= step_of(p99), "else what is usual would be slow"
    assert seconds_of(limit) <= max(p99 + allowed, seconds_of(step_of(p99))) * (1 + 1e-9)
    assert seconds_of(limit + 2) >= p99 + allowed


@pytest.mark.parametrize("name", canary.NEW)
def test_rollouts_of_each_kind_in_virtual_time(name: str) -> None:
    bad = canary.NEW[name][1]
    found = canary.many(1, name, 15, rate=200.0, each=60.0, look=10.0)
    ends = Counter(it.phase for it in found)
    if bad:
        assert ends == {rollout.ROLLED_BACK: 15}
        assert max(it.failed for it in found) < 0.01
    else:
        assert ends == {rollout.DONE: 15}


def test_the_risk_of_all_steps_is_that_of_a_rollout() -> None:
    for steps in range(1, 6):
        assert sum(part_of(step, steps) for step in range(1, steps + 1)) == pytest.approx(1)
    assert part_of(0, 3) == 0.5
