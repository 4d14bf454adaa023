"""The load test itself: locust, two sidecars and a service, all real."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Not importorskip: importing locust patches the standard library of this process.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="needs locust")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, env=os.environ
    )


def test_a_burst_through_two_sidecars_loses_nothing() -> None:
    # The criterion that matters here is the count; how fast a busy test machine is says nothing.
    done = run("-m", "loadtest", "--scenario", "burst", "--p99", "60000", "--within", "90")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "burst: passed. 1000 requests" in done.stdout
    assert " 0 failed" in done.stdout


@pytest.mark.costly
def test_a_missed_criterion_is_the_exit_code() -> None:
    done = run("-m", "loadtest", "--scenario", "sustained", "--run-time", "2s", "--p99", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sustained: missed." in done.stdout


def test_locust_by_itself_refuses_a_strange_host() -> None:
    done = run("-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--host", "http://192.0.2.1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "SIDECAR_LOADTEST_ALLOW=192.0.2.1" in done.stderr
