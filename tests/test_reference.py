"""docs/reference.md has every error code, with its status, every header and every metric; docs/amqp.md those of AMQP
ports; docs/troubleshooting.md what to do about each code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: A row of the table of errors: codes, statuses.
ROW = re.compile(r"\| (?P<codes>`\w+`(?:, `\w+`)*) \| (?P<statuses>\d{3}(?:, \d{3})*)\b")
#: An entry about a code: its heading, and the status below.
ENTRY = re.compile(r"^### (\w+)\n\n(\d{3})\b", re.MULTILINE)
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
        data = path.read_bytes()
        for node in ast.walk(ast.parse(data)) if b'"sidecar_' in data else ():
            match node:
                case ast.Call(func=ast.Name(id=kind), args=[ast.Constant(value=str(name)), *_]) if kind in KINDS:
                    if name.startswith("sidecar_"):
                        yield name + KINDS[kind]


@pytest.fixture(scope="module")
def codes() -> dict[str, int]:
    """The codes, and their statuses."""
    ran = subprocess.run([sys.executable, "-c", CODES], cwd=ROOT, capture_output=True, check=True)
    found: dict[str, int] = json.loads(ran.stdout)
    return found


def test_every_error_code_stands_in_the_table(codes: dict[str, int]) -> None:
    found: dict[str, str] = {}
    for row in ROW.finditer((ROOT / "docs" / "reference.md").read_text("utf-8")):
        names, statuses = re.findall(r"\w+", row["codes"]), re.findall(r"\d+", row["statuses"])
        found |= dict(zip(names, statuses * len(names) if len(statuses) == 1 else statuses, strict=False))
    assert {code: int(status) for code, status in found.items()} == codes


def test_every_error_code_has_its_entry_of_what_to_do(codes: dict[str, int]) -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    found = {code: int(status) for code, status in ENTRY.findall(text)}
    assert found == codes


def test_every_code_of_a_queue_is_told_of() -> None:
    """Its location has codes that are in no table of the sidecar's own, as no other port answers them."""
    answers = (ROOT / "sidecar" / "http_queue" / "answers.py").read_text("utf-8")
    given = set(re.findall(r'_error\(\d{3}, "(\w+)"', answers)) | {"expired"}
    assert len(given) == 4
    for page in ("troubleshooting.md", "http-queue.md"):
        told = (ROOT / "docs" / page).read_text("utf-8")
        assert [code for code in given if not re.search(rf"\b{code}\b", told)] == [], page


def test_every_header_of_its_own_stands_in_the_table() -> None:
    """Those of HTTP; a message's are in docs/amqp.md."""
    table = (
        (ROOT / "docs" / "reference.md").read_text("utf-8").partition("### Headers of its own")[2].partition("##")[0]
    )
    told = set(re.findall(r"`(x-sidecar-\w+|endpoint-load-metrics)\b", table))
    used = {
        name
        for path in (ROOT / "sidecar").rglob("*.py")
        for name in re.findall(r"\b(x-sidecar-[a-z]+|endpoint-load-metrics)\b", path.read_text("utf-8"))
    }
    assert "`x-sidecar-id`" in (ROOT / "docs" / "amqp.md").read_text("utf-8")
    assert told == used - {"x-sidecar-id"}
