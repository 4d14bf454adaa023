"""What the judge of a canary bets on, and what it says of what came of it."""

from __future__ import annotations

from math import e, log

import pytest

from sidecar.resilience import canary_judge
from sidecar.resilience.canary_counts import Known, Side, limit_of, seconds_of, step_of
from sidecar.resilience.canary_evidence import Evidence
from sidecar.resilience.canary_judge import Guard, Judge, Verdict
from sidecar.resilience.sequential_test import Block, against_equal, against_rate, against_worse

#: What an alarm of the first of three steps needs, by what all have seen and by what one has seen alone: a logarithm.
ALL, ALONE = -log(0.0045 / 4), -log(0.0005 / 4)
#: What its first beginning is worth; and what a proof needs.
FIRST = log(0.75)
PROOF = -log(0.005)


def seen(new: int = 100, old: int = 100, *gains: float) -> Evidence:
    """Evidence of that many answers, of which a tenth is bad, and a hundredth of the old ones; worth so much."""
    return Evidence(new, new // 10, new, new // 5, old, old // 100, *gains)


def heard(evidence: Evidence, guard: Guard | None = None, *, alone: bool = False) -> Judge:
    """A judge that has seen nothing by itself."""
    judge = Judge(guard or Guard(), 1, 3, alone=alone)
    judge.hear({"a": evidence}, Known(), None)
    return judge


def answers(side: Side, count: int, bad: int = 0, slow: int = 0) -> None:
    for number in range(count):
        side.told(1.0 if number < slow else 0.01, number < bad, True)


def usual(answers: int, bad: int = 0, slow: int = 0) -> Known:
    """An old version whose answers take 10 ms, and some two seconds."""
    known = Known()
    known.add(answers, bad, {step_of(0.01): answers - slow, step_of(2.0): slow})
    return known


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((), Verdict("", False, "requests that tell more about errors")),
        ((0.0, 0.0, PROOF + 0.01), Verdict("", False, "requests that tell more about latencies")),
        ((0.0, 0.0, 0.0, PROOF + 0.01), Verdict("", False, "requests that tell more about errors")),
        ((0.0, 0.0, PROOF + 0.01, PROOF + 0.01), Verdict("", True, "")),
        ((ALL / 2 - FIRST - 0.01, 0.0, PROOF + 0.01, PROOF + 0.01), Verdict("", True, "")),
        (
            (ALL / 2 - FIRST + 0.01, 0.0, PROOF + 0.01, PROOF + 0.01),
            Verdict("", False, "it may be worse, more requests will tell"),
        ),
        ((0.0, ALL - FIRST - 0.01), Verdict("", False, "it may be worse, more requests will tell")),
        (
            (ALL - FIRST + 0.01, 0.0),
            Verdict(
                "10 of 100 requests failed (10.00%), of the others 1 of 100 (1.00%); 2 sidecars have counted", False, ""
            ),
        ),
        (
            (0.0, ALL - FIRST + 0.01),
            Verdict(
                "20 of 100 answers (20.00%) took more than 0 ms, or what that is for another caller; the others' p99 "
                "is 0 ms, and 100 ms more are allowed; 2 sidecars have counted",
                False,
                "",
            ),
        ),
    ],
)
def test_what_is_said_follows_from_the_evidence(gains: tuple[float, ...], verdict: Verdict) -> None:
    """Half of the risk of a false alarm is for the first step, and of that half for errors, half for latencies."""
    assert heard(seen(100, 100, *gains)).verdict() == verdict


def test_one_of_one_is_all_of_them() -> None:
    guard = Guard(min_requests=1)
    all_bad = Evidence(1, 1, 1, 1, 1, 1)
    verdict = heard(all_bad._replace(errors=ALL - FIRST + 0.01), guard).verdict()
    assert verdict.broken.startswith("1 of 1 requests failed (100.00%), of the others 1 of 1 (100.00%);")
    verdict = heard(all_bad._replace(slower=ALL - FIRST + 0.01), guard).verdict()
    assert verdict.broken.startswith("1 of 1 answers (100.00%) took more than")


def test_times_are_told_in_milliseconds() -> None:
    known = Known()
    known.add(1000, 0, {step_of(20.0): 1000})
    p99, limit = known.p99(), seconds_of(limit_of(known.p99(), 2.0))
    judge = Judge(Guard(p99=2.0), 1, 3, known)
    answers(judge.new, 100)
    answers(judge.old, 100)
    judge.look(0.0)
    judge.hear({"a": seen(100, 100, 0.0, ALL - FIRST + 5.0)}, Known(), None)
    assert f"took more than {limit * 1000:.0f} ms, or" in judge.verdict().broken
    assert f"p99 is {p99 * 1000:.0f} ms, and 2000 ms more" in judge.verdict().broken
    assert judge.view()["slow_above_ms"] == round(limit * 1000, 1)
    assert 21_500 < limit * 1000 < 22_000


def test_a_reason_of_one_alone_is_compared_with_what_all_know_if_it_knows_too_little() -> None:
    judge = Judge(Guard(), 3, 3, usual(50, 1), alone=True)
    judge.hear({"a": Evidence(10_000, 0, 10_000, 0, 0, 0, -900.0, -900.0)}, usual(4950, 2), None)
    answers(judge.new, 100, 100)
    assert judge.look(0.0).broken == (
        "100 of 100 requests failed (100.00%), before it 3 of 5000 of the others; one sidecar alone has seen this"
    )


def test_a_hundred_answers_of_the_others_are_known_well_enough_for_errors() -> None:
    for known, good in ((99, False), (100, True)):
        judge = Judge(Guard(p99=0.0), 3, 3, usual(known), alone=True)
        answers(judge.new, 100)
        assert judge.look(0.0).good == good


def test_where_latencies_are_not_asked_errors_alone_are_to_be_proven() -> None:
    guard = Guard(p99=0.0)
    assert not heard(seen(), guard).verdict().good
    assert heard(seen(100, 100, 0.0, 0.0, PROOF + 0.01), guard).verdict().good


@pytest.mark.parametrize(
    ("new", "old", "waits"), [(99, 100, "99 of at"), (100, 99, "99 of at"), (100, 100, "requests")]
)
def test_a_hundred_of_each_are_enough(new: int, old: int, waits: str) -> None:
    assert heard(seen(new, old)).verdict().waits.startswith(waits)


def test_what_is_new_is_added_and_nothing_twice() -> None:
    judge = heard(seen(100, 100, 2.0, 3.0, 1.0, 1.5))
    judge.hear({"a": seen(200, 200, 3.0, 4.0, 1.5, 2.0)}, Known(), None)
    found = judge.view()["evidence"]
    assert found["more_errors"] == round((3.0 + FIRST) / ALL, 3)
    assert found["slower"] == round((4.0 + FIRST) / ALL, 3)
    assert found["no_more_errors"] == round(1.5 / PROOF, 3)
    assert found["not_slower"] == round(2.0 / PROOF, 3)


@pytest.mark.parametrize(
    ("new", "old", "kept"), [(200, 99, False), (99, 200, False), (100, 101, True), (101, 100, True)]
)
def test_what_has_less_of_either_is_an_older_note(new: int, old: int, kept: bool) -> None:
    judge = heard(seen(100, 100))
    judge.hear({"a": seen(new, old)}, Known(), None)
    assert ((judge.seen.new, judge.seen.old) == (new, old)) == kept


def test_one_that_is_too_many_keeps_no_other_from_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_judge, "MOST", 1)
    judge = heard(seen(100))
    judge.hear({"b": seen(300), "a": seen(200)}, Known(), None)
    assert (judge.sidecars, judge.seen.new) == (2, 200)


def test_what_it_sees_itself_is_held_against_a_higher_bar() -> None:
    judge = Judge(Guard(), 1, 3, usual(1000))
    answers(judge.old, 900)
    answers(judge.new, 100, 3, 4)
    judge.look(0.0)
    found = judge.view()["evidence"]
    for name, gain in (("more_errors", judge.here.errors), ("slower", judge.here.slower)):
        assert gain > 2.0
        assert found[name] == round((gain + FIRST) / ALL, 3)
        assert found[f"{name}_here"] == round((gain + FIRST) / ALONE, 3)


@pytest.mark.parametrize(("bad", "slow", "what"), [(20, 0, "requests failed"), (0, 20, "took more than 109 ms; the")])
def test_what_one_alone_has_seen(bad: int, slow: int, what: str) -> None:
    """Both errors and latencies; of a hundred answers of each at least."""
    others = {"a": Evidence(10_000, 0, 10_000, 0, 90_000, 0, -90.0, -90.0, 9.0, 9.0)}
    for new, old, broken in ((100, 100, True), (99, 900, False), (900, 99, False)):
        judge = Judge(Guard(), 1, 3, usual(10_000))
        judge.hear(others, Known(), None)
        answers(judge.old, old)
        answers(judge.new, new, bad * new // 100, slow * new // 100)
        verdict = judge.look(0.0)
        assert bool(verdict.broken) == broken, (new, old)
        if broken:
            assert what in verdict.broken
            assert verdict == Verdict(verdict.broken, False, "")
            assert verdict.broken.endswith("; one sidecar alone has seen this")


def test_what_comes_is_looked_at_by_itself_every_window() -> None:
    """From the first answer of the new version on. What was well before does not outweigh it: after one window it is
    worth a quarter of a half."""
    judge = Judge(Guard(window=60.0), 1, 3)
    assert judge.judged(7.0) == 0.0
    assert judge.look(7.0).waits
    evidence = -50.0
    judge.hear({"a": seen(100, 100, evidence)}, Known(), None)
    for now, worth in ((1000.0, 0.0), (1059.0, 0.0), (1060.0, 5.0 + log(0.25 / 2)), (1119.0, 10.0 + log(0.25 / 2))):
        answers(judge.new, 1)
        judge.look(now)
        assert judge.judged(now) == now - 1000.0
        evidence += 5.0
        judge.hear({"a": seen(100, 100, evidence)}, Known(), None)
        assert judge.view()["evidence"]["more_errors"] == pytest.approx(worth / ALL, abs=0.001)


def test_what_was_cut_off_says_something_where_it_is_slow_already() -> None:
    judge = Judge(Guard(), 1, 3, usual(1000))
    judge.outrun(judge.new, 5.0)
    assert judge.new.timed() == 0, "it is not known yet what is slow"
    answers(judge.new, 1)
    judge.look(0.0)
    judge.outrun(judge.new, 0.1)
    assert judge.new.timed() == 0
    judge.outrun(judge.new, 0.2)
    assert judge.new.latencies == {step_of(0.2): 1}


# -- what is bet on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answered", "bad", "rate"), [(0, 0, 1 / 500), (500, 9, 0.01), (1000, 0, 1 / 1500), (10_000, 10_000, 0.9)]
)
def test_errors_are_bet_on_by_what_is_known_before(answered: int, bad: int, rate: float) -> None:
    known = Known()
    known.add(answered, bad, {})
    judge = Judge(Guard(error_rate=0.02), 1, 3, known)
    answers(judge.old, 270, 3)
    answers(judge.new, 30, 1)
    judge.look(0.0)
    block = Block(270, 3, 30, 1)
    assert judge.here.errors == against_equal(block, rate, rate + 0.02)
    assert judge.here.no_errors == against_worse(block, rate, 0.02)
    assert (judge.here.timed, judge.here.slow) == (0, 0), "there are no latencies to go by"


def test_where_nearly_all_fail_it_is_feared_that_one_in_twenty_does_not() -> None:
    for alone in (False, True):
        known = Known()
        known.add(10_000, 9000, {})
        judge = Judge(Guard(error_rate=0.2, p99=0.0), 1, 3, known, alone=alone)
        answers(judge.old, 0 if alone else 100, 90)
        answers(judge.new, 100, 97)
        judge.look(0.0)
        if alone:
            assert judge.here.errors == against_rate(Block(0, 0, 100, 97), 0.95, 0.9)
        else:
            assert judge.here.errors == against_equal(Block(100, 90, 100, 97), 9001 / 10_500, 0.95)


@pytest.mark.parametrize(
    ("here", "elsewhere", "rate"),
    [
        ((1000, 3), (0, 0), (3 + 2.5) / 2000),  # 3 of 1000, and 2 of 1000 as is usual anywhere: 5 of 2000
        ((1000, 9), (0, 0), 0.006),
        ((1000, 0), (5000, 30), (0 + 32 / 7) / 2000),
        ((999, 0), (5001, 30), (30 + 32 / 7) / 7000),  # it has too few of its own
        ((300, 0), (0, 0), (0 + 2 / 1.3) / 1300),
    ],
)
def test_slow_answers_are_bet_on_by_what_is_usual(
    here: tuple[int, int], elsewhere: tuple[int, int], rate: float
) -> None:
    """Against one in a hundred, of what is known here if that are a thousand answers, else of all; a thousand more
    weigh what all know."""
    judge = Judge(Guard(), 1, 3, usual(here[0], slow=here[1]))
    judge.hear({}, usual(elsewhere[0], slow=elsewhere[1]), None)
    answers(judge.old, 270, slow=1)
    answers(judge.new, 30, slow=2)
    judge.look(0.0)
    block = Block(270, 1, 30, 2)
    assert (judge.here.timed, judge.here.slow) == (30, 2)
    assert judge.here.slower == pytest.approx(against_equal(block, rate, 0.01), rel=1e-12)
    assert judge.here.not_slower == pytest.approx(against_rate(block, rate, 0.01), rel=1e-12)


@pytest.mark.parametrize("alone", [False, True])
def test_three_hundred_say_what_is_slow(alone: bool) -> None:
    for known, timed in ((299, 0), (300, 30)):
        judge = Judge(Guard(), 1, 3, usual(known), alone=alone)
        answers(judge.new, 30, slow=2)
        judge.look(0.0)
        assert (judge.here.timed, judge.here.slow) == (timed, min(2, timed))


@pytest.mark.parametrize(
    ("here", "elsewhere", "most", "feared"),
    [
        ((1000, 3), (0, 0), 0.0135, 0.027),  # 3 and three standard deviations, of 1000; twice as many
        ((300, 0), (5000, 99), 0.025, 0.05),  # its own are enough
        ((299, 0), (4701, 3), 0.0027, 0.01),  # they are not
    ],
)
def test_slow_answers_of_one_that_gets_all_are_held_against_the_most_that_was_usual(
    here: tuple[int, int], elsewhere: tuple[int, int], most: float, feared: float
) -> None:
    judge = Judge(Guard(), 3, 3, usual(here[0], slow=here[1]), alone=True)
    judge.hear({}, usual(elsewhere[0], slow=elsewhere[1]), None)
    answers(judge.new, 300, slow=2)
    judge.look(0.0)
    assert judge.here.slower == pytest.approx(against_rate(Block(0, 0, 300, 2), feared, most), rel=1e-12)
    assert judge.here.not_slower == judge.here.no_errors == 0.0, "of that nothing is to be proven"


@pytest.mark.parametrize(
    ("here", "elsewhere", "most"), [((100, 3), (900, 0), 0.135), ((99, 3), (901, 0), 0.0135), ((99, 3), (0, 0), 0.0)]
)
def test_errors_of_one_that_gets_all_are_held_against_the_most_that_was_usual(
    here: tuple[int, int], elsewhere: tuple[int, int], most: float
) -> None:
    """Of a hundred that it has seen itself, or of all; with fewer nothing is said."""
    judge = Judge(Guard(error_rate=0.02), 3, 3, usual(*here), alone=True)
    judge.hear({}, usual(*elsewhere), None)
    answers(judge.new, 300, 20)
    judge.look(0.0)
    expected = against_rate(Block(0, 0, 300, 20), most + 0.02, most) if most else 0.0
    assert judge.here.errors == pytest.approx(expected, rel=1e-12)
    assert judge.here.no_errors == 0.0


# -- counts ------------------------------------------------------------------------------------------------------------


def test_a_step_ends_where_it_says() -> None:
    """A fortieth of the way to e times as long, from a microsecond on."""
    assert seconds_of(39) == pytest.approx(e / 1e6, rel=1e-12)
    for number in range(900):
        assert step_of(seconds_of(number) * (1 - 1e-9)) == number
        assert step_of(seconds_of(number) * (1 + 1e-9)) == number + 1


def test_what_is_slow_is_behind_the_step() -> None:
    known = usual(10, slow=3)
    slow = step_of(2.0)
    assert [known.above(number) for number in (0, slow - 1, slow)] == [10, 3, 0]


def test_one_in_a_hundred_is_not_slow() -> None:
    """Where it is just the tail that p99 leaves, p99 is where that begins."""
    known = usual(100, slow=1)
    assert known.p99() == seconds_of(step_of(2.0) - 1)


@pytest.mark.parametrize(("answered", "bad", "rate"), [(0, 0, 0.002), (500, 9, 0.01), (9500, 99, 0.01)])
def test_of_what_is_hardly_known_two_in_a_thousand_are_bad(answered: int, bad: int, rate: float) -> None:
    assert usual(answered, bad).rate() == rate


@pytest.mark.parametrize(
    ("bad", "answered", "rate"), [(0, 1000, 0.0075), (3, 1000, 0.0135), (8, 1000, 0.0215), (0, 1, 0.9), (0, 0, 0.9)]
)
def test_three_standard_deviations_are_the_most(bad: int, answered: int, rate: float) -> None:
    """Of so many events, of which that many were to come: of 21.5 the standard deviation is 4.6, and 21.5 - 3 * 4.6 are
    about the 8 that were seen."""
    assert Known().most(bad, answered) == pytest.approx(rate)
