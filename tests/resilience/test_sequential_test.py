"""Evidence that two rates differ: what it is worth on average, and when it is enough."""

from __future__ import annotations

from itertools import product
from math import comb, exp, log

import pytest

from sidecar.resilience.sequential_test import Alarm, Block, Proof, against_equal, against_rate, against_worse


def expected(old: int, new: int, rate_old: float, rate_new: float, gain: object) -> float:
    """What a block of that size multiplies the bet with, on average, if these are the true rates."""
    total = 0.0
    for i, j in product(range(old + 1), range(new + 1)):
        p = comb(old, i) * rate_old**i * (1 - rate_old) ** (old - i)
        p *= comb(new, j) * rate_new**j * (1 - rate_new) ** (new - j)
        total += p * exp(gain(Block(old, i, new, j)))  # type: ignore[operator]
    return total


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.3, 0.9])
@pytest.mark.parametrize(("old", "new"), [(1, 1), (9, 1), (3, 7)])
def test_a_bet_against_equality_is_worth_nothing_while_the_new_one_is_not_worse(
    old: int, new: int, rate: float
) -> None:
    def gain(block: Block) -> float:
        return against_equal(block, 0.01, 0.05)

    assert expected(old, new, rate, rate, gain) <= 1 + 1e-9
    assert expected(old, new, rate, rate / 2, gain) <= 1 + 1e-9
    assert expected(old, new, 0.01, 0.05, gain) > 1


@pytest.mark.parametrize("rate", [0.0001, 0.02, 0.3])
@pytest.mark.parametrize(("old", "new"), [(1, 1), (9, 1), (3, 7)])
def test_a_bet_against_worse_is_worth_nothing_while_it_is_worse(old: int, new: int, rate: float) -> None:
    def gain(block: Block) -> float:
        return against_worse(block, 0.02, 0.1)

    assert expected(old, new, rate, rate + 0.1, gain) <= 1 + 1e-6
    assert expected(old, new, rate, min(1.0, rate + 0.3), gain) <= 1 + 1e-6
    assert expected(old, new, 0.02, 0.02, gain) > 1


def test_a_bet_against_a_rate_is_worth_nothing_at_that_rate() -> None:
    def gain(block: Block) -> float:
        return against_rate(block, 0.001, 0.01)

    assert expected(0, 8, 0.5, 0.01, gain) == pytest.approx(1)
    assert expected(0, 8, 0.5, 0.02, gain) < 1
    assert expected(0, 8, 0.5, 0.001, gain) > 1


def test_where_only_one_of_the_two_was_asked_nothing_is_learnt() -> None:
    assert against_equal(Block(0, 0, 0, 0), 0.01, 0.02) == 0
    assert against_equal(Block(50, 3, 0, 0), 0.01, 0.02) == pytest.approx(0)
    assert against_equal(Block(0, 0, 50, 3), 0.01, 0.02) == pytest.approx(0)
    assert against_worse(Block(0, 0, 50, 3), 0.01, 0.02) == against_worse(Block(50, 3, 0, 0), 0.01, 0.02) == 0
    assert against_worse(Block(5, 1, 5, 1), 0.95, 0.2) == 0, "there is no rate that is so much worse"


def test_an_alarm_needs_more_than_its_risk_says() -> None:
    alarm = Alarm(0.01)
    alarm.add(log(100))
    assert alarm.evidence < 1, "a quarter of the bet is kept for later beginnings"
    alarm.add(log(4 / 3) + 1e-9)
    assert alarm.rings
    alarm.add(-50.0)
    assert alarm.evidence == 0


def test_what_was_well_for_long_does_not_hide_what_is_not_now() -> None:
    alarm = Alarm(0.01)
    alarm.add(-500.0)
    alarm.begin()
    alarm.add(log(100) + log(8) + 1e-9)
    assert alarm.rings


def test_all_beginnings_are_one_bet() -> None:
    alarm = Alarm(0.01)
    weights = [exp(alarm._begun[-1])]
    for _ in range(9999):
        alarm.begin()
        weights.append(exp(alarm._begun[-1]))
    assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert sum(weights) < 1


def test_beginnings_are_bounded() -> None:
    alarm = Alarm(0.01)
    for _ in range(1000):
        alarm.begin()
        alarm.add(-0.1)
    assert len(alarm._begun) <= 24
    alarm.begin()
    alarm.add(log(100) + log(4 * 1003 * 1004))
    assert alarm.rings


def test_a_proof_stays() -> None:
    proof = Proof(0.01)
    proof.add(log(50))
    assert 0.8 < proof.evidence < 0.9
    proof.add(log(2) + 1e-9)
    proof.add(-50.0)
    assert proof.found
    assert proof.evidence == 1.0
