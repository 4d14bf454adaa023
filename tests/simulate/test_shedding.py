"""The laws of admission, with the whole data plane: what the limit comes to, and who is shed."""

from __future__ import annotations

import pytest

from sidecar.simulate.scenarios import adaptive, shedding


def test_the_limit_is_the_capacity_after_a_change_in_either_direction() -> None:
    case = adaptive.Case("4 slots", adaptive.CASES[0].times, 0.05, 4)
    found = adaptive.simulate(1, case, adaptive.FOUND.replace("min: 4", "min: 2"), step=12.0)
    assert list(found.means) == pytest.approx([1.0, 1.0, 1.0], abs=0.26)  # it is shown as a whole number
    assert found.goodput >= 0.9
    assert found.p99 <= 2


def test_critical_requests_are_not_shed_and_what_can_be_done_is() -> None:
    found = shedding.simulate(1, shedding.FOUND, until=20.0)
    assert found.goodput >= 0.9
    assert found.lost["critical"] < 0.001
    assert found.lost["low"] > found.lost["normal"] > 0.3


def test_as_they_came_all_are_served_too_late() -> None:
    assert shedding.simulate(1, shedding.FIXED, until=14.0).goodput < 0.1
