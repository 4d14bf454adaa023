"""An app that answers before it has read the upload, behind a real sidecar: every answer arrives."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench import early
from support.processes import missing


@pytest.mark.parametrize("app", ["raw", "node"])
def test_every_early_answer_arrives(app: str, tmp_path: Path) -> None:
    if app == "node" and shutil.which("node") is None:
        missing("there is no Node.js: install the package nodejs")
    seen = early.measure(app, 20, 2 << 20, sys.executable, tmp_path, ["sidecar"])
    assert seen["sidecar"] == {"413": 20}, seen
