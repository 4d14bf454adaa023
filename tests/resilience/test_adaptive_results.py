"""What the limit that is found makes of what its looks have found: the sums, worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest

from sidecar.resilience.adaptive_limit import LOST, NEITHER
from support.turns import EACH, Port


def filtered(estimate: float, *steps: float) -> float:
    """What a Kalman filter makes of results that differ from the estimate by so much, as logarithms. The variance of
    one is four fifths of the square of what two of them differ by."""
    variance, differ, last = 0.5, 0.2, 0.0
    for step in steps:
        differ += (abs(step - last) - differ) / 5
        last = step
        variance += 0.003
        weight = variance / (variance + max(0.8 * differ**2, 0.003))
        variance *= 1 - weight
        estimate *= exp(weight * step)
    return estimate


def test_the_first_results_are_weighed_by_what_is_known() -> None:
    """By Little's law 100 in a second that take a quarter of one are 25 at once; the limit is 6 % above it."""
    port = Port()
    steps: list[float] = []
    for ended, took in ((100, 1.0), (92, 1.0), (192, 2.0), (176, 2.0)):
        steps.append(log(1.06 * ended * EACH / took / port.limit.estimate))
        assert port.turn(ended, took, wait=5.0) == pytest.approx(filtered(20.0, *steps))
        assert port.limit.latency == EACH


def test_results_that_are_alike_are_noise_all_the_same() -> None:
    port = Port(start=106)
    port.steady(12)
    port.turn(1020, 2.5, wait=5.0, low=1.75)
    assert port.limit.estimate == pytest.approx(filtered(106.0, *[0.0] * 12, log(1.02)))


@pytest.mark.parametrize(
    ("ceiling", "ended", "most"), [(1000, 400, log(1.06 * 2)), (1000, 10, -log(1.06 * 2)), (22, 10, -log(2 / 1.06))]
)
def test_no_result_counts_for_more_than_the_level_that_is_further_away(ceiling: int, ended: int, most: float) -> None:
    port = Port(ceiling=ceiling)
    differ = 0.2 + (abs(most) - 0.2) / 5
    weight = 0.503 / (0.503 + 0.8 * differ**2)
    assert port.turn(ended) == pytest.approx(20 * exp(weight * most))


@pytest.mark.parametrize(
    ("ended", "stride"),
    [(100, log(2) / 2), (118, log(2) / 2), (137, log(2) / 2), (138, log(2)), (160, log(2)), (40, log(2))],
)
def test_what_is_surely_no_chance_is_followed_at_once(ended: int, stride: float) -> None:
    """Three times what results differ by, which is a fifth at first. The next turn goes as far as the first then, else
    half as far."""
    port = Port()
    estimate = port.turn(ended)
    assert port.limit.level == min(round(estimate * exp(-stride)), int(estimate * 0.9))


@pytest.mark.parametrize(
    ("turns", "stride"),
    [
        ((117, 252), 0.28), ((118, 252), log(2)), ((120, 245), 0.28), ((120, 249), log(2)), ((120, 70), 0.28),
        ((120, 249, 525), log(2)), ((48, 70), 0.28), ((48, 68), log(2)), ((50, 68), 0.28), ((48, 120), 0.28),
    ],
)  # fmt: skip
def test_steps_are_longer_while_they_clearly_lead_the_same_way(turns: tuple[int, ...], stride: float) -> None:
    """Else each is half the last one."""
    port = Port()
    estimate = port.turn(turns[0])
    for ended in turns[1:]:
        estimate = port.turn(ended, 1.75, low=1.75)
    assert port.begin(5.0) == round(estimate * exp(-stride))


@pytest.mark.parametrize(("first", "second", "stride"), [(120, 280, 0.28), (130, 290, log(2))])
def test_a_floor_near_by_makes_no_result_clearer(first: int, second: int, stride: float) -> None:
    """The lower level is the floor then, so it is the higher one that says how far is far."""
    port = Port(floor=20)
    port.turn(first)
    estimate = port.turn(second, 1.75, low=1.75)
    assert port.begin(5.0) == max(20, round(estimate * exp(-stride)))


def test_where_results_differ_by_chance_the_levels_are_as_far_apart() -> None:
    """A little further, up to a third."""
    port = Port(ceiling=10_000, start=1060)
    assert port.turn(7000, 1.75, low=1.75) == pytest.approx(1060)
    estimate = port.turn(round(7000 * exp(0.2)), 1.75, low=1.75)
    differ = 0.2 - 0.2 / 5
    differ += (0.2 - differ) / 5
    assert port.begin(5.0) == pytest.approx(estimate * exp(-1.3 * differ), abs=0.6)


def test_what_is_followed_is_believed() -> None:
    """Results that lead the same way move the estimate by four fifths at least, and what is known of it is old."""
    port = Port()
    first = port.turn(160)
    step = log(1.06 * 77 / first)
    assert port.turn(308) == pytest.approx(first * exp(0.8 * step))
    port = Port(start=106)
    port.steady(12)
    step = log(1.2)
    differ = 0.2 * 0.8**12
    differ += (step - differ) / 5
    weight = 0.153 / (0.153 + max(0.8 * differ**2, 0.003))
    estimate = 106 * exp(weight * step)
    assert port.turn(1200, 2.5, wait=5.0, low=1.75) == pytest.approx(estimate)
    assert port.begin() == round(estimate * exp(-2 * 0.2)), "and steps are twice as long"


@pytest.mark.parametrize(("rest", "variance"), [(10.0, 0.0), (10.125, 0.15)])
def test_what_was_learnt_is_old_after_ten_seconds_without_a_turn(rest: float, variance: float) -> None:
    port = Port(start=106)
    port.steady(12)
    estimate = port.limit.estimate
    step = log(1.02)
    differ, known = 0.2, 0.5
    for _ in range(12):
        differ *= 0.8
        known += 0.003
        known *= 1 - known / (known + max(0.8 * differ**2, 0.003))
    differ += (step - differ) / 5
    known = max(known, variance) + 0.003
    weight = known / (known + max(0.8 * differ**2, 0.003))
    assert port.turn(1020, 2.5, wait=rest, low=1.75) == pytest.approx(estimate * exp(weight * step))


def test_at_the_ceiling_there_is_nothing_to_find_out_for_a_while() -> None:
    port = Port(ceiling=30)
    assert port.turn(120) == 30
    assert port.after(4.875) == 30
    assert port.after(0.125) == 25, "a fifth less"


def test_when_there_is_a_higher_ceiling_the_search_begins_anew() -> None:
    port = Port(ceiling=30)
    port.turn(120)
    port.limit.resize(1, 1000)
    estimate = port.turn(360, 2.5, wait=5.0, low=1.75)
    assert estimate > 33
    assert port.begin() == round(estimate * exp(-0.28)), "no longer steps yet"


@pytest.mark.parametrize(("lost", "estimate"), [(51, 10.0), (50, filtered(20.0, log(1.06 * 25 / 20)))])
def test_when_most_are_late_it_is_let_down(lost: int, estimate: float) -> None:
    port = Port()
    port.begin()
    port.lower()
    port.rise()
    port.now += 0.5
    port.end(lost, outcome=LOST)
    port.end(100 - lost)
    port.end(1000, outcome=NEITHER)
    port.after(0.5)
    assert port.limit.estimate == pytest.approx(estimate)


def test_when_most_are_late_again_and_again_steps_are_longer() -> None:
    port = Port()
    found = [port.turn(100, outcome=LOST) for _ in range(3)]
    assert found == pytest.approx([10, 10 / 2**0.5, 5 / 2**0.5])


@pytest.mark.parametrize(("ended", "stride"), [(48, log(2)), (120, log(2) / 4)])
def test_being_late_leads_down(ended: int, stride: float) -> None:
    """As a clear result does that is lower, and unlike one that is higher."""
    port = Port()
    port.turn(ended)
    estimate = port.turn(100, 1.75, low=1.75, outcome=LOST)
    assert port.begin() == round(estimate * exp(-max(stride, 0.28)))


@pytest.mark.parametrize(("each", "found"), [(EACH, 10.0), (EACH - 1 / 64, 20.0)])
def test_who_leaves_before_it_could_have_had_an_answer_says_nothing(each: float, found: float) -> None:
    port = Port()
    port.limit.latency = EACH
    port.begin()
    port.lower()
    port.rise()
    port.now += 0.5
    port.end(100, each, LOST)
    port.after(0.5)
    assert port.limit.estimate == found


# -- whether there was enough to do ------------------------------------------------------------------------------------


def looked(ended: int, *flying: int, low: int = 40) -> float:
    """The estimate after a first look at the higher level, forty, with so many in flight for parts of it of the same
    length."""
    port = Port()
    port.begin()
    port.lower(low)
    port.rise()
    for number in flying:
        port.fly(number)
        port.now += 1.0 / len(flying)
    port.now -= 1 / 64
    port.end(ended)
    port.after(1 / 64)
    return port.limit.estimate


@pytest.mark.parametrize(
    ("flying", "ended", "says"),
    [
        ((36,), 20, True), ((35,), 80, False), ((32, 40), 80, True), ((40, 31), 80, False), ((40, 0), 80, False),
        ((40,), 0, False), ((24,), 40, True), ((24,), 39, False), ((24,), 48, True), ((24,), 49, False),
        ((23,), 40, False), ((40, 20), 60, True), ((40, 20), 61, False),
    ],
)  # fmt: skip
def test_it_has_to_be_full_or_far_more_than_what_gets_done(flying: tuple[int, ...], ended: int, says: bool) -> None:
    """Nine tenths of the level on average; or six tenths, and twice what was found, of forty answers."""
    assert (looked(ended, *flying) != 20.0) == says


@pytest.mark.parametrize(("flying", "says"), [(35, False), (36, True)])
def test_it_has_to_be_full_for_a_look_however_long_that_is(flying: int, says: bool) -> None:
    port = Port()
    port.begin()
    port.lower(took=0.5)
    port.rise()
    port.fly(flying)
    assert (port.higher(80, 0.5) != 20.0) == says


@pytest.mark.parametrize(("late", "says"), [(1.0 - 1 / 64, True), (1.0, False)])
def test_a_look_that_nobody_ends_for_as_long_again_says_nothing(late: float, says: bool) -> None:
    port = Port()
    port.begin()
    port.lower()
    port.rise()
    port.now += 0.5
    port.end(100)
    assert (port.after(0.5 + late) == 10) == (not says), "the next turn begins from where this one did"
    assert (port.limit.estimate != 20.0) == says


def test_a_request_that_takes_long_is_no_full_server() -> None:
    """There was little to do: when the look was over one alone was in flight, which ends a minute later."""
    port = Port()
    port.begin()
    port.lower()
    port.rise()
    port.now += 0.125
    port.end(40)
    port.fly(1)
    port.now += 60.0
    port.fly(0)
    port.end(1, 60.0)
    assert port.limit.estimate == 20.0


# -- and then ----------------------------------------------------------------------------------------------------------


def test_when_nothing_waits_any_more_the_next_turn_has_to_wait_too() -> None:
    port = Port()
    port.begin()
    port.lower()
    port.rise()
    estimate = port.higher(100)
    assert port.limit.level == round(estimate * exp(-log(2) / 2)), "while something waits"
    port = Port()
    port.limit.pressed(0.0)
    port.end(1)  # it has begun, and nothing has had to wait since then
    port.now = 1.0
    port.end(41)
    port.now = 1.25
    port.end(1)
    port.fly(40)
    port.now = 1.5
    port.end(1)
    port.now = 2.0
    port.end(100)
    port.now = 2.5
    port.end(1)
    assert port.limit.estimate != 20.0
    assert port.limit.level == round(port.limit.estimate)


@pytest.mark.parametrize(("each", "low", "high"), [(EACH, 1.75, 2.5), (1 / 16, 1.0, 0.625)])
def test_between_turns_that_find_nothing_new_there_are_pauses(each: float, low: float, high: float) -> None:
    """As long as the turn was, or so long that the lower level costs a twentieth of what can be done."""
    port = Port(start=106)
    port.steady(3)
    began = port.now = port.now + 5.0
    level = port.begin()
    port.lower(40 if each == EACH else 100, low, each)
    port.rise(each)
    port.higher(round(100 * high / each), high)
    assert port.limit.estimate == pytest.approx(106)
    turn = port.now - began
    pause = max(turn, low * (1 - level / 106) / 0.05 - turn)
    assert port.after(pause - 1 / 64) == 106
    assert port.after(1 / 32) == level


def test_while_results_differ_by_chance_there_is_no_pause_for_its_own_sake() -> None:
    port = Port(floor=19)
    port.turn(83)
    estimate = port.turn(75)
    assert round(estimate) == 21
    assert port.limit.level == 19, "the next turn has begun: the lower level is so near that it costs little"
