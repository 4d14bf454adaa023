"""What telemetry costs, as it is worked out and told; measuring itself needs a quiet machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.load import Sample
from bench.page import Conditions
from bench.processes import BenchError
from bench.telemetry import CONTENDERS, Results, Told, _checked, configuration, goals, ratios, section
from sidecar.config.load import load

CONDITIONS = Conditions("make bench", "2026-01-02 03:04 UTC", 0.1, 1, 5, (0, 1))


def sample(cpu: float) -> Sample:
    return Sample(cpu, 1e6 / cpu, cpu, cpu, 0)


def results(*names: str) -> Results:
    bare, full = names
    # The machine becomes slower meanwhile, which both have to bear.
    return Results(
        {bare: [sample(20), sample(40), sample(80)], full: [sample(21), sample(43), sample(84)]},
        {bare: [Told(0, 0, 0, 0)], full: [Told(30, 0, 20, 10)]},
    )


def test_turns_are_compared_one_by_one() -> None:
    found = results(*CONTENDERS[:2])
    assert ratios(found, CONTENDERS[:2]) == pytest.approx([1.05, 1.075, 1.05])
    [goal] = goals(found)
    assert goal.value == pytest.approx(1.05)
    assert goal.met
    text = section(found, CONTENDERS[:2], CONDITIONS)
    assert "1.050 [1.05, 1.07, 1.05]" in text or "1.050 [1.05, 1.08, 1.05]" in text
    assert "**1.05** (goal: at most 1.08) — met" in text


def test_the_source_as_it_is_counts_where_nothing_else_was_measured() -> None:
    assert goals(results(*CONTENDERS[2:]))[0].met
    assert goals(Results({"bare": [sample(1)]})) == []


@pytest.mark.parametrize("full", [True, False])
def test_the_files_are_right(full: bool, tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(json.dumps(configuration(full, 1, 2, 3, 4)))
    config = load(file)
    assert (config.why.records, config.log.access.mode) == ((2000, "errors") if full else (0, "off"))
    assert config.tracing.sample == (0.01 if full else 0)
    assert bool(config.tracing.otlp) is full


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bare", Told(1, 0, 0, 0)),
        ("bare", Told(0, 0, 1, 0)),
        ("telemetry", Told(0, 0, 1, 1)),
        ("telemetry", Told(1, 1, 1, 1)),
        ("telemetry-interpreted", Told(1, 0, 1, 0)),
    ],
)
def test_one_that_did_not_do_its_work_has_no_figures(name: str, told: Told) -> None:
    with pytest.raises(BenchError, match="has not told what it should have"):
        _checked(name, told)
