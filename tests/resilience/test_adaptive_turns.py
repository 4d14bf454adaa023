"""The looks of a turn of the limit that is found, one by one: when each begins, what counts, when it is over."""

from __future__ import annotations

import pytest

from support.turns import EACH, Port


@pytest.mark.parametrize(
    ("start", "floor", "ceiling", "low", "high"),
    [
        (20, 1, 1000, 10, 40), (20, 15, 1000, 15, 40), (20, 1, 30, 10, 30), (20, 20, 20, 20, 20), (1, 1, 1000, 1, 2),
        (1, 1, 1, 1, 1), (3, 1, 1000, 2, 6),
    ],
)  # fmt: skip
def test_half_as_many_then_twice_as_many(start: int, floor: int, ceiling: int, low: int, high: int) -> None:
    port = Port(floor, ceiling, start)
    assert port.begin() == low
    port.lower()
    assert port.rise() == high


@pytest.mark.parametrize(("slots", "low", "high"), [(1, 1, 2), (2, 1, 3)])
def test_there_is_one_less_and_one_more_to_try(slots: int, low: int, high: int) -> None:
    """A fifth less or more would be none."""
    port = Port(start=slots)
    for _ in range(2):
        port.turn(4 * slots, wait=5.0)
    assert port.begin(5.0) == low
    port.lower()
    assert port.rise() == high


def test_other_bounds_are_those_of_the_next_turn() -> None:
    port = Port()
    port.begin()
    port.limit.resize(15, 30)
    assert port.limit.level == 20
    assert port.begin() == 15
    port.lower()
    assert port.rise() == 30


def test_what_is_in_flight_has_to_leave_before_the_lower_level_is_looked_at() -> None:
    port = Port()
    port.fly(20)
    port.limit.pressed(0.0)
    port.now = 2.0
    port.fly(11)
    port.end(1000)
    assert not port.over(), "one too many"
    port.limit.pressed(2.0)  # ten now
    port.now = 3.0
    port.end(60, 2.0)  # let in before
    assert not port.over()


def test_what_is_let_in_at_the_lower_level_says_how_long_one_takes() -> None:
    """From its first instant on, and before its end; also what ends later."""
    port = Port()
    port.begin()
    port.lower(each=1.0)  # from the first instant on
    port.rise(1.0)
    port.end(40, 2.0)  # let in at its end: not of it
    port.end(10, 2.5)  # let in before that
    port.after(0.0)
    port.higher(160, 2.0)
    assert port.limit.latency == (40 * 1.0 + 10 * 2.5) / 50


@pytest.mark.parametrize(
    ("ended", "took", "over"),
    [(39, 1.0, False), (40, 1.0, True), (3, 60.0, False), (4, 1.875, False), (4, 2.0, True), (3, 2.0, False)],
)
def test_forty_answers_are_a_look_and_four_after_two_seconds(ended: int, took: float, over: bool) -> None:
    port = Port()
    port.begin()
    port.lower(ended, took)
    assert port.over() == over


def test_an_instant_is_no_look() -> None:
    port = Port()
    port.begin()
    port.lower(200, 0.0, 0.0)
    assert port.limit.level == 10
    assert not port.over()


@pytest.mark.parametrize(
    ("ended", "took", "over"),
    [
        (40, 1.875, False), (40, 2.0, True), (159, 1.875, False), (160, 1.875, True), (4, 9.875, False),
        (4, 10.0, True),
    ],
)  # fmt: skip
def test_a_look_takes_two_requests_as_long_as_the_last_ones_were(ended: int, took: float, over: bool) -> None:
    """The server is slow: a request takes a second, as was seen in the turn before. Plenty of answers are a look, too:
    it is quicker now."""
    port = Port(ceiling=10, start=10)
    port.begin()
    port.lower(took=1.0, each=1.0)
    port.rise(1.0)
    port.higher(20, 2.0)  # 10 in flight for 2 s, of which 20 ended
    assert port.begin() == 7
    port.lower(ended, took, 0.5)
    assert port.over() == over


@pytest.mark.parametrize("less", [0, 1])
def test_plenty_is_twelve_for_each_slot(less: int) -> None:
    port = Port(start=100)
    port.begin()
    port.lower(40, 1.5, 1.5)
    port.rise(1.5)
    port.higher(200, 3.0)  # a request takes three seconds there, and what is done at once is about what was thought
    low = port.begin()
    assert 70 < low < 80
    port.lower(12 * low - less, 1.0, 0.5)
    assert port.over() == (not less)


@pytest.mark.parametrize(("wait", "given_up"), [(2.0, False), (2.125, True)])
def test_when_nothing_has_to_wait_any_more_the_look_is_given_up(wait: float, given_up: bool) -> None:
    port = Port()
    port.limit.pressed(8.0)
    port.now = 8.0
    port.end(1)
    port.now += wait
    port.end(1)
    assert port.limit.level == (20 if given_up else 10)


def test_while_something_has_to_wait_it_is_not_given_up() -> None:
    port = Port()
    port.begin()
    port.now = 60.0
    port.end(1)
    assert port.limit.level == 10


@pytest.mark.parametrize(("ended", "up"), [(19, False), (20, True)])
def test_up_it_goes_when_what_was_let_in_at_the_lower_level_has_ended(ended: int, up: bool) -> None:
    """After as long as one takes, or when twice as many have ended as there are."""
    port = Port()
    port.begin()
    port.lower()
    assert port.after(EACH / 2) == 10
    port.end(ended)
    assert (port.after(0.0) == 40) == up
    if not up:
        assert port.after(EACH / 2) == 40


@pytest.mark.parametrize(("ended", "begun"), [(79, False), (80, True)])
def test_the_higher_level_is_looked_at_when_it_is_full(ended: int, begun: bool) -> None:
    """The same there. What ends before is no part of the look, so as many more have to end until it is over."""
    port = Port()
    port.begin()
    port.lower()
    port.after(EACH)
    port.end(ended)
    port.after(0.0)
    port.after(1 / 16)
    port.end(60)
    assert port.after(1.0 - 2 / 16) == 40, "it is not over before"
    assert port.limit.estimate == 20
    port.after(1 / 16)
    assert (port.limit.estimate != 20) == begun


@pytest.mark.parametrize(
    ("ended", "took", "each", "requests"),
    [
        (40, 1.0, EACH, 4), (40, 1.0, 1.0, 2), (60, 1.5, 0.5, 2), (50, 1.0, 0.5, 2), (40, 1.0, 0.375, 3),
        (40, 1.5, 0.125, 10), (40, 1.0, 0.125, 8),
    ],
)  # fmt: skip
def test_the_look_at_the_higher_level_takes_as_long_as_forty_answers_did(
    ended: int, took: float, each: float, requests: int
) -> None:
    """In whole requests, two to ten."""
    port = Port()
    port.begin()
    port.lower(ended, took, each)
    port.rise(each)
    port.after(each / 2)
    port.end(100)
    port.after((requests - 0.625) * each)
    assert port.limit.estimate == 20, "not before"
    port.after(each / 8)
    assert port.limit.estimate != 20


@pytest.mark.parametrize(("ended", "over"), [(479, False), (480, True)])
def test_plenty_of_answers_are_a_look_at_the_higher_level(ended: int, over: bool) -> None:
    """Twelve for each of forty slots; but no look takes but an instant."""
    port = Port()
    port.begin()
    port.lower()
    port.rise()
    port.end(ended)
    port.after(0.0)
    assert port.limit.estimate == 20
    port.after(0.5)
    assert (port.limit.estimate != 20) == over
