"""The benchmark's arithmetic and its HTTP section; measuring itself needs a quiet machine, not a test run."""

from __future__ import annotations

import pytest

from bench.load import CASES, Sample, unexpected
from bench.page import Conditions
from bench.processes import Memory
from bench.report import goals, section
from bench.run import Results
from sidecar.demo.ports import free_ports

CONDITIONS = Conditions("make bench", "2026-01-02 03:04 UTC", 0.1, 3, 8, (0, 1))


def results(ours: float, theirs: float) -> Results:
    found = Results()
    for name, cpu in (("sidecar", ours), ("interpreted", ours * 1.5), ("envoy", theirs), ("haproxy", theirs / 2)):
        for case in CASES:
            found.samples[name, case.name] = [
                Sample(cpu * drift, 1e6 / cpu, cpu * drift, cpu * drift * 2, 0) for drift in (1.0, 0.9, 1.2)
            ]
        found.memory[name] = [Memory(int(cpu * 2**20), int(cpu * 2**20))]
        found.startup[name] = [0.3, 0.2]
    return found


def test_goals_compare_turns_and_the_slowest_start() -> None:
    found = goals(results(16, 40))
    assert [goal.value for goal in found] == pytest.approx([0.8, 0.4, 0.8, 0.4, 0.6, 0.8, 0.4, 0.8, 16, 0.3])
    assert [goal.met for goal in found] == [True] * 7 + [False, True, True]


def test_what_disturbs_one_turn_spoils_one_of_many() -> None:
    found = results(16, 40)
    samples = found.samples["sidecar", "c32"]
    samples[1] = Sample(samples[1].cpu * 10, 1, 1, 1, 0)
    samples[2] = Sample(samples[2].cpu * 0.9, 1, 1, 1, 0)
    assert goals(found)[0].value == pytest.approx(0.8)


def test_goals_need_both_sides() -> None:
    found = results(20, 40)
    for case in CASES:
        del found.samples["envoy", case.name], found.samples["haproxy", case.name]
    assert [goal.limit for goal in goals(found)] == [40, 1.0]


def test_errors_are_expected_where_the_case_has_them() -> None:
    assert unexpected(0, 1000, 0.0) == 0
    assert unexpected(1, 1000, 0.0) == 1
    assert unexpected(13, 1000, 0.01) == 0
    assert unexpected(21, 1000, 0.01) == 21
    assert unexpected(0, 1000, 0.01) == 1


def test_the_section_holds_every_case_with_its_ratio_and_its_span() -> None:
    # Neither Envoy nor the servers need to be here for this: the names decide which versions are asked for.
    text = section(results(20, 40), ["sidecar"], CONDITIONS)
    for case in CASES:
        assert case.title[1:] in text
    assert "20.0 (18.0–24.0) ×0.50" in text
    assert "0.50** (goal: at most 0.4) — **missed**" in text


def test_errors_add_up_over_everything() -> None:
    found = results(20, 40)
    found.samples["envoy", "tcp"].append(Sample(1, 1, 1, 1, 3))
    assert found.errors == 3


def test_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
