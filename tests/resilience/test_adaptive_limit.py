"""The limit that is found: laws, each in a time of its own and with a seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.adaptive_limit import GOOD, LOST, NEITHER, START, AdaptiveLimit
from sidecar.resilience.priority_limiter import NORMAL
from support.examples import examples
from support.slots import Asked, Run, Times, adaptive, always, exponential


def changes(run: Run, at: float, slots: int, times: Times | None = None) -> Run:
    """Let it run until then; the server is another from then on."""
    run.until(at)
    run.slots = slots
    if times is not None:
        run.times = times
    return run


@pytest.mark.parametrize(("times", "seed"), [(always(0.02), 1), (exponential(0.02), 1), (exponential(0.02), 2)])
def test_it_is_the_capacity_ten_seconds_after_each_change(times: Times, seed: int) -> None:
    run = Run(adaptive(), 8, times, lambda now: 1600 if 15 <= now < 30 else 800, seed=seed)
    run = changes(changes(run, 15, 16), 30, 8).until(45)
    for begin, slots in ((0, 8), (15, 16), (30, 8)):
        assert run.mean_limit(begin + 10, begin + 15) == pytest.approx(slots, rel=0.2)


def test_at_twice_the_capacity_it_does_what_it_can_in_good_time() -> None:
    """A server whose requests all take the same time is where waiting shows most."""
    run = Run(adaptive(), 8, always(0.05), 320).until(40)
    assert run.goodput(10, 40) >= 0.9 * 160
    assert run.seconds(0.99, 10, 40) <= 2 * 0.05


def test_a_large_server_is_found_from_the_small_limit_of_the_start() -> None:
    run = Run(adaptive(), 200, always(0.1), 4000, seed=3).until(14)
    assert START < 0.2 * 200
    assert run.mean_limit(10, 14) == pytest.approx(200, rel=0.2)


def test_an_app_that_becomes_slower_for_reasons_of_its_own_keeps_its_limit() -> None:
    """Its dependency takes three times as long: there are as many slots as before."""
    run = changes(Run(adaptive(), 8, always(0.02), 800), 20, 8, always(0.06)).until(50)
    assert run.mean_limit(30, 50) == pytest.approx(8, rel=0.2)


def test_with_little_to_do_the_limit_stays_as_it_was_learnt() -> None:
    run = Run(adaptive(), 8, exponential(0.02), lambda now: 800 if now < 20 else 100).until(21)
    learnt = run.limiter.limit
    run.until(200)
    assert abs(run.limiter.limit - learnt) <= 1
    assert not [reason for reason, _ in run.shed.items() if reason[1] == "stale" and run.now > 200]


def test_nothing_to_do_for_long_changes_nothing_and_then_it_goes_on() -> None:
    run = Run(adaptive(), 8, always(0.02), lambda now: 0 if 20 <= now < 80 else 800).until(80)
    assert run.limiter.limit == pytest.approx(8, rel=0.2)
    run.until(100)
    assert run.mean_limit(90, 100) == pytest.approx(8, rel=0.2)
    assert run.goodput(85, 100) >= 0.9 * 400


def test_it_stays_within_its_bounds() -> None:
    assert Run(adaptive(floor=4), 1, always(0.02), 200).until(15).limiter.limit == 4
    assert Run(adaptive(ceiling=5), 8, always(0.02), 800).until(15).limiter.limit == 5


def test_what_hangs_is_let_down_to_the_floor_and_comes_back() -> None:
    """No answer comes in time; then all do."""
    limit = AdaptiveLimit(2, 1000, 0.0)
    now, active = 0.0, 0

    def turn(outcome: int, seconds: float) -> None:
        nonlocal now, active
        while active < limit.level:
            active += 1
            limit.changed(active, now)
        limit.pressed(now)
        since, now = now, now + seconds
        while active:
            active -= 1
            limit.changed(active, now)
            limit.ended(outcome, since, now)

    for _ in range(200):
        turn(LOST, 1.0)
    assert limit.level <= 3
    for _ in range(300):
        turn(GOOD, 0.01)
    assert limit.estimate > 20


class Hasty(Asked):
    """A request that nobody waits for any more a millisecond after it was let in."""

    def granted(self) -> None:
        since = self.run.now
        self.run._at(since + 0.001, lambda: self.run.limiter.done(LOST, since, self.run.now))


def test_who_leaves_sooner_than_a_request_takes_presses_nothing_down() -> None:
    run = Run(adaptive(), 8, always(0.02), 800).until(20)

    def hasty() -> None:
        run._at(run.now + 1 / 1600, hasty)
        it = Hasty(run, NORMAL, 1e9)
        if run.limiter.admit(run.now):
            it.granted()
        else:
            run.limiter.join(it)

    hasty()
    run.until(60)
    assert run.mean_limit(40, 60) == pytest.approx(8, rel=0.2)
    assert run.goodput(40, 60) >= 0.8 * 400


def test_what_says_nothing_moves_nothing() -> None:
    limit = AdaptiveLimit(2, 1000, 0.0)
    for n in range(5000):
        limit.changed(limit.level, n / 100)
        limit.pressed(n / 100)
        limit.ended(NEITHER, n / 100 - 0.05, n / 100)
    assert limit.estimate == START


def test_other_bounds_keep_what_was_learnt() -> None:
    limit = AdaptiveLimit(2, 1000, 0.0)
    limit.resize(2, 15)
    assert (limit.estimate, limit.level) == (15, 15)
    limit.resize(2, 100)
    assert limit.estimate == 15
    limit.resize(30, 100)
    assert (limit.estimate, limit.level) == (30, 30)


def test_a_clock_that_stands_still_moves_nothing_for_good() -> None:
    limit = AdaptiveLimit(2, 1000, 0.0)
    for _ in range(10_000):
        limit.changed(limit.level, 1.0)
        limit.pressed(1.0)
        limit.ended(GOOD, 1.0, 1.0)
    assert 2 <= limit.level <= 1000


@given(st.integers(), st.integers(1, 60), st.integers(0, 60))
@settings(max_examples=examples(40), deadline=None)
def test_whatever_happens_it_stays_within_its_bounds(seed: int, floor: int, more: int) -> None:
    rng = random.Random(seed)
    limit = AdaptiveLimit(floor, floor + more, 0.0)
    now = 0.0
    taken: list[float] = []
    for _ in range(600):
        now += rng.choice((0.0, 0.0, 1e-6, 0.01, 0.3, 30.0))
        if len(taken) < limit.level and rng.random() < 0.6:
            taken.append(now)
            limit.changed(len(taken), now)
        elif taken and rng.random() < 0.7:
            since = taken.pop(rng.randrange(len(taken)))
            limit.changed(len(taken), now)
            limit.ended(rng.choice((GOOD, GOOD, GOOD, LOST, NEITHER)), since, now)
        else:
            limit.pressed(now)
        assert floor <= limit.level <= floor + more
        assert floor <= limit.estimate <= floor + more


def test_many_in_flight_when_nothing_is_known_yet() -> None:
    """All that ends during the first look was let in before."""
    run = Run(adaptive(floor=100), 400, always(0.05), 10_000).until(3)
    assert run.limiter.limit >= 100


def test_nothing_but_errors_while_the_higher_level_is_looked_at() -> None:
    """They say nothing, so nothing is known of that level."""
    limit, now = AdaptiveLimit(4, 64, 0.0), 0.0
    flying: list[float] = []
    while limit.level <= limit.estimate:
        while len(flying) < limit.level:
            flying.append(now)
            limit.changed(len(flying), now)
        limit.pressed(now)
        now += 0.001
        since = flying.pop(0)
        limit.changed(len(flying), now)
        limit.ended(GOOD, since, now)
    estimate = limit.estimate
    for _ in range(500):
        limit.changed(limit.level, now)
        limit.pressed(now)
        now += 0.001
        limit.changed(limit.level - 1, now)
        limit.ended(NEITHER, now - 0.001, now)
    assert limit.estimate == estimate
