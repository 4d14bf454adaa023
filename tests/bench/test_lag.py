"""The bench of the loop's lag: what it makes of its samples, and that it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.lag import Lateness, lateness, report

ROOT = Path(__file__).resolve().parent.parent.parent


def test_percentiles() -> None:
    found = lateness([n / 1000 for n in range(101)], 2.0)
    assert found == pytest.approx((0.050, 0.090, 0.099, 0.100, 2.0))


@pytest.mark.parametrize(("later", "verdict"), [(0.0009, "met"), (0.002, "missed")])
def test_the_goal_is_about_the_difference_within_a_run(later: float, verdict: str) -> None:
    none = [Lateness(0.001, 0.002, 0.010, 0.020, 1.0)] * 3
    exported = [it._replace(p99=it.p99 + later, cpu=1.1) for it in none]
    text = report({"none": none, "exported": exported}, 5.0, 1000, 15000, 0)
    assert f"— {verdict}" in text
    assert "15000 spans arrived, 0 did not; 20 µs of CPU time each" in text


def test_it_runs() -> None:
    command = [sys.executable, "-m", "bench.lag", "--seconds", "0.2", "--repeats", "1", "--rate", "200"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert "p99 of exported" in ended.stdout
    assert ", 0 did not" in ended.stdout
