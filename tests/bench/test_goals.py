"""Rows of goals, and what of them is a miss."""

from __future__ import annotations

import math

import pytest

from bench.goals import Goal, printed, quantile, row


def test_a_row_says_whether_the_goal_is_met_or_nothing_where_there_is_none() -> None:
    assert row(Goal("openings", "0", "0", met=True)) == "| openings | 0 | 0 | met |"
    assert row(Goal("openings", "2", "0", met=False)).endswith("| **missed** |")
    assert row(Goal("rows", "5", "", met=None)).endswith("|  |")


def test_what_has_no_goal_is_no_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed([Goal("a", "1", "1", True), Goal("b", "2", "1", False), Goal("c", "3", "", None)]) == 1
    assert capsys.readouterr().out.count("\n") == 5


def test_quantiles() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(range(100), 0.99) == 99
    assert quantile([1.0], 1.0) == 1.0
    assert math.isnan(quantile([], 0.5))
