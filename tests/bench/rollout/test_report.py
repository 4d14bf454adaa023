"""What is made of the changes of a canary's state, and of the requests meanwhile."""

from __future__ import annotations

from random import Random

import pytest

from bench.goals import Goal
from bench.rollout.report import Asked, Changed, Course, course, decided, rows
from bench.rollout.servers import QUICK, SLOW, seconds_of
from sidecar.simulate.scenarios.canary import OLD


def _changed(sidecar: str, at: float, phase: str, weight: int) -> Changed:
    return Changed(sidecar, "errors", at, phase, weight, f"{phase} by {sidecar}")


BEGUN = [_changed("one", 1.0, "running", 10), _changed("two", 1.2, "running", 10)]
BACK = [*BEGUN, _changed("one", 30.0, "rolled_back", 0), _changed("two", 30.3, "rolled_back", 0)]


def _rows(found: Course, failed: int = 0, kind: str = "bad", window: float = 60.0) -> list[Goal]:
    return list(rows("it", kind, found, Asked(1000, failed, 0.0, {503: 1} if failed else {}), (window, 90.0), 2))


def test_a_rollback_counts_from_the_step_s_begin_or_the_first_request_if_that_comes_later() -> None:
    assert course(BACK, 0.5).ends == pytest.approx({"one": 29.0, "two": 29.3})
    found = course(BACK, 5.0)
    assert found.ends == pytest.approx({"one": 25.0, "two": 25.3})
    assert (found.phase, found.weight, found.text) == ("rolled_back", 10, "rolled_back by one")
    assert found.spread == pytest.approx(0.3)


def test_a_rollback_at_a_later_step_counts_from_that_one() -> None:
    later = [*BEGUN, _changed("two", 20.0, "running", 25), _changed("one", 32.0, "rolled_back", 0)]
    assert course(later, 5.0).ends == pytest.approx({"one": 12.0})
    assert course(later, 5.0).weight == 25


def test_a_bad_one_that_is_rolled_back_everywhere_within_the_window_meets_its_goals() -> None:
    told = _rows(course(BACK, 5.0), failed=9)
    assert [it.met for it in told] == [True, True, True]
    assert told[0].found == "25.0, 25.3 s after the step of 10 % began, within the window"
    assert told[1].found == "300 ms"
    assert told[2].found == "0.90% (9 of 1000; not by a version: 1 × 503)"


def test_later_than_the_window_is_said_and_is_a_miss_for_what_is_grossly_bad() -> None:
    told = _rows(course(BACK, 5.0), window=20.0)
    assert (told[0].met, told[0].found[-21:]) == (True, "later than the window")
    assert _rows(course(BACK, 5.0), kind="gross", window=20.0)[0].met is False
    assert _rows(course(BACK, 5.0), kind="gross")[0].met is True
    assert _rows(course(BEGUN, 5.0), kind="gross")[0].met is False


def test_not_in_all_of_them_is_a_miss() -> None:
    assert _rows(course(BACK[:3], 5.0))[0].met is False


def test_a_bad_one_that_is_undecided_is_no_miss_and_one_that_is_promoted_is() -> None:
    waiting = _rows(course(BEGUN, 5.0)._replace(text="more"), failed=10)
    assert [it.met for it in waiting] == [None, False]  # 1 % is not less than 1 %
    assert waiting[0].found == "no: as nothing is proven, 10 % after 90 s; waits for: more"
    done = [*BEGUN, _changed("one", 9.0, "done", 100), _changed("two", 9.1, "done", 100)]
    assert _rows(course(done, 5.0))[0].met is False
    assert "promoted" in _rows(course(done, 5.0))[0].found


def test_a_bad_one_that_is_given_more_while_undecided_is_a_miss() -> None:
    more = [*BEGUN, _changed("one", 9.0, "running", 25)]
    assert _rows(course(more, 5.0))[0].met is False
    back = [*more, _changed("one", 30.0, "rolled_back", 0), _changed("two", 30.1, "rolled_back", 0)]
    assert _rows(course(back, 5.0))[0].met is False


def test_a_good_one() -> None:
    steps = [*BEGUN, _changed("one", 40.0, "running", 25), _changed("one", 60.0, "running", 100)]
    done = [*steps, _changed("one", 70.0, "done", 100), _changed("two", 70.2, "done", 100)]
    told = _rows(course(done, 5.0), kind="good")
    assert (told[0].found, told[0].met) == ("after 65 s", True)
    assert _rows(course(done[:-1], 5.0), kind="good")[0].met is False
    assert _rows(course(steps[:-1], 5.0)._replace(text="more"), kind="good")[0] == Goal(
        "it: 100 % everywhere, by itself", "at 25 % after 90 s; waits for: more", "yes", None
    )
    assert _rows(course(BACK, 5.0), kind="good")[0].met is False


def test_decided_is_what_all_know() -> None:
    assert decided(BACK, "errors", 2)
    assert not decided(BACK[:3], "errors", 2)
    assert not decided(BACK, "slow", 2)


def test_latencies_of_a_version() -> None:
    rng = Random(1)
    took = sorted(seconds_of(OLD, rng) for _ in range(20_000))
    assert took[10_000] == QUICK
    assert took[18_200] > SLOW
    assert took[19_800] == pytest.approx(OLD.p99, rel=0.1)
