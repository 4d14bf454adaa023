"""What is left to read when the show is over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sidecar.demo.story import Check
from sidecar.demo.summary import summary
from sidecar.demo.traffic import Tally


def tally(requests: int, *latencies: float, **errors: int) -> Tally:
    found = Tally()
    found.requests = requests
    found.latencies.extend(latencies)
    found.errors.update(errors)
    return found


def lines() -> list[str]:
    tasks, model = tally(12345, 0.0012), tally(7, 0.4638, 1.2, circuit_open=17, cut_off=3)
    seen = SimpleNamespace(retries={"race": 1}, open_seconds=3.0, p50_ms=1.0, p99_ms=2.0)
    story: Any = SimpleNamespace(
        tasks=SimpleNamespace(phases={"steady": tasks, "model down": tasks}, total=lambda: tasks),
        model=SimpleNamespace(total=lambda: model),
        observer=SimpleNamespace(tasks=seen, model=seen),
        checks=[Check("it went well", True), Check("it did not", False)],
    )
    return summary(story, {"web": 50_000_000}).splitlines()


def test_the_header_stands_over_its_columns() -> None:
    [header] = [line for line in lines() if "requests" in line and "p50" in line]
    ends = [header.index(word) + len(word) for word in ("requests", "errors", "p50", "p99")]
    rows = [line for line in lines() if line.startswith(("  tasks: ", "  model: "))]
    assert len(rows) == 4
    for row in rows:
        assert all(row[end - 1] != " " and row[end : end + 1] in ("", " ") for end in ends), row
    for row in (line for line in lines() if "of these" in line):
        assert len(row) == ends[1]


def test_what_went_wrong_stands_out() -> None:
    assert "  yes  it went well" in lines()
    assert "  NO   it did not" in lines()
