"""docs/reference.md has every error code, with its status, and every metric; docs/amqp.md those of AMQP ports."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: A row of the table of errors: codes, statuses.
ROW = re.compile(r"\| (?P<codes>`\w+`(?:, `\w+`)*) \| (?P<statuses>\d{3}(?:, \d{3})*)\b")
#: The codes with those that our filters declare. In a process of its own: other tests declare more.
CODES = "import json, sidecar.filters.order, sidecar.core.replies as it; print(json.dumps(it.STATUS))"


#: What makes a family (:mod:`sidecar.core.metrics`), and how its kind ends the name of its samples.
KINDS = {"counter": "_total", "gauge": "", "histogram": ""}
#: The first column of a row about metrics.
METRICS = re.compile(r"\| (?P<names>`(?:sidecar|process|python)_[^|]*) \|")


def test_every_metric_stands_in_a_table_and_no_other() -> None:
    text = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("reference.md", "amqp.md"))
    told = {
        name
        for row in METRICS.finditer(text)
        for name in re.findall(r"`(sidecar_\w+)", row["names"])
        if not name.startswith("sidecar_filter_") or name == "sidecar_filter_failures_total"
    }
    assert told == set(_families())


def _families() -> Iterator[str]:
    """The names of the samples of all families that are made with a fixed name."""
    for path in (ROOT / "sidecar").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(func=ast.Name(id=kind), args=[ast.Constant(value=str(name)), *_]) if kind in KINDS:
                    if name.startswith("sidecar_"):
                        yield name + KINDS[kind]


def test_every_error_code_stands_in_the_table() -> None:
    ran = subprocess.run([sys.executable, "-c", CODES], cwd=ROOT, capture_output=True, check=True)
    found: dict[str, str] = {}
    for row in ROW.finditer((ROOT / "docs" / "reference.md").read_text("utf-8")):
        codes, statuses = re.findall(r"\w+", row["codes"]), re.findall(r"\d+", row["statuses"])
        found |= dict(zip(codes, statuses * len(codes) if len(statuses) == 1 else statuses, strict=False))
    assert {code: int(status) for code, status in found.items()} == json.loads(ran.stdout)
