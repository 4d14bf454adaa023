"""The section made of passes."""

from __future__ import annotations

from bench.page import Conditions
from bench.spool.report import goals, section
from bench.spool.run import Results, Sample


def sample(**changes: float) -> Sample:
    fields = {
        "p50": 500, "p99": 6000, "taken": 30_000, "taking_cpu": 33.0, "messages": 900_000, "size": 3 << 29,
        "reopened": 0.5, "sent": 12_000, "sending_cpu": 50.0, "peak": 57 << 20,
    } | changes  # fmt: skip
    return Sample(**fields)  # type: ignore[arg-type]


def test_goals() -> None:
    results = Results({"sidecar": [sample(), sample(sent=9000), sample(sent=8000, peak=61 << 20)]})
    found = goals(results)
    assert [goal.value for goal in found] == [30_000, 9000, 6, 0.5, 57]
    assert [goal.met for goal in found] == [True, False, True, True, True]
    assert "seconds until 1.5 GiB are back in service" in found[3].text


def test_the_section() -> None:
    results = Results({"sidecar": [sample()], "interpreted": [sample(taken=25_000)]})
    conditions = Conditions("make bench", "2026-01-01 00:00 UTC", 0.0, 1, 35, (0, 1))
    text = section(results, ["sidecar", "interpreted"], conditions)
    assert "25000 (25000–25000)" in text
    assert "1536 (1536–1536)" in text
    assert "interpreted: and out of it: **12000.00** (goal: at least 10000) — met" in text
