"""What turns add up to, and the section made of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, astuple

import pytest

from bench.amqp.cases import CASES
from bench.amqp.load import Order, Target, Turn, decode
from bench.amqp.report import goals, section
from bench.amqp.run import Results, Sample, samples, turns
from bench.page import Conditions
from bench.processes import Memory


def test_turns_are_equally_many_and_begin_with_another_one_each_round() -> None:
    found = turns(["a", "b", "c"], 4, shift=1)
    assert Counter(found) == {"a": 4, "b": 4, "c": 4}
    assert found[:6] == ["b", "c", "a", "c", "a", "b"]


def test_the_turns_of_a_contender_add_up() -> None:
    found = samples(
        [
            Turn("direct", 1000, 1.0, 0.0, 0.02, 0.01, 0.1, []),
            Turn("sidecar", 1000, 1.0, 0.01, 0.02, 0.01, 0.3, list(range(1, 101))),
            Turn("sidecar", 3000, 1.0, 0.03, 0.10, 0.01, 0.7, list(range(1, 101))),
        ]
    )
    assert astuple(found["direct"])[:-2] == pytest.approx((1000, 0, 20, 10, 0, 0, 0.1))
    assert astuple(found["sidecar"])[:-2] == pytest.approx((2000, 10, 30, 5, 50.5, 99.99, 0.5))
    assert list(found["sidecar"].rates) == [1000, 3000]
    assert list(found["sidecar"].cpus) == pytest.approx([10, 10])


def test_an_order_survives_its_way_to_the_generator() -> None:
    order = Order(CASES[2], Target("broker", 1, 2), [Target("direct", 1, 0)], ["direct"], 1.0)
    assert decode(json.dumps(asdict(order))) == order


def results(rates: list[float], added: float) -> Results:
    found = Results()
    for case in CASES:
        found.samples["direct", case.name] = [
            Sample(100.0, 0, 20, 5, 150, 1000, 0, (100.0,) * 3, (0.0,) * 3) for _ in rates
        ]
        found.samples["sidecar", case.name] = [
            Sample(rate, 6, 20, 5, 150 + added, 1000 + added, 0, (rate, rate / 2, rate + 1), (6.0, 5.0, 9.0))
            for rate in rates
        ]
    found.memory["sidecar"] = [Memory(45 << 20, 36 << 20)]
    return found


def test_goals_are_medians_of_what_each_repeat_compares() -> None:
    found = goals(results([98.0, 90.0, 99.0], added=200))
    assert [round(goal.value, 2) for goal in found] == [0.98, 0.98, 0.2, 0.2]
    assert all(goal.met for goal in found)
    assert [goal.met for goal in goals(results([96.0], added=2001))] == [False] * 4


def test_what_is_passed_on_is_compared_with_a_direct_connection_that_has_traces_too() -> None:
    found = results([98.0], added=1)
    for case in CASES:
        found.samples["traced", case.name] = [Sample(49.0, 0, 24, 5, 150, 1000, 0, (49.0, 24.5, 49.5), (0.0,) * 3)]
    assert [round(goal.value, 2) for goal in goals(found)][:2] == [0.98, 2.0]
    text = section(found, ["sidecar", "traced"], Conditions("make bench", "2026-01-02 03:04 UTC", 0.1, 3, 8, (0, 1)))
    assert "0.98 [0.98]" in text
    assert "2.00 [2.00]" in text
    assert "0.49 [0.49]" in text


def test_cpu_is_compared_with_a_tcp_relay_turn_by_turn() -> None:
    found = results([98.0], added=1)
    del found.samples["direct", CASES[0].name]
    for case in (CASES[0], CASES[2], CASES[3]):
        found.samples["haproxy", case.name] = [Sample(49.0, 0, 24, 5, 150, 1000, 0, (49.0,) * 3, (5.0, 5.0, 3.0))]
    assert [round(goal.value, 2) for goal in goals(found) if "HAProxy" in goal.text] == [1.2, 1.2]


def test_goals_need_both_sides() -> None:
    found = results([98.0], added=1)
    for case in CASES:
        del found.samples["direct", case.name]
    assert goals(found) == []


def test_the_section_holds_every_case_with_each_repeat() -> None:
    text = section(
        results([98.0, 90.0, 99.0], added=200),
        ["sidecar", "direct"],
        Conditions("make bench", "2026-01-02 03:04 UTC", 0.1, 3, 8, (0, 1)),
    )
    for case in CASES:
        assert case.title[1:] in text
    assert "0.98 [0.98 0.90 0.99]" in text
    assert "200 [200 200 200]" in text
    assert "0.98** (goal: at least 0.97) — met" in text
