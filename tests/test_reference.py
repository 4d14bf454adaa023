"""docs/reference.md has every error code, with its status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: A row of the table of errors: codes, statuses.
ROW = re.compile(r"\| (?P<codes>`\w+`(?:, `\w+`)*) \| (?P<statuses>\d{3}(?:, \d{3})*)\b")
#: The codes with those that our filters declare. In a process of its own: other tests declare more.
CODES = "import json, sidecar.filters.order, sidecar.core.replies as it; print(json.dumps(it.STATUS))"


def test_every_error_code_stands_in_the_table() -> None:
    ran = subprocess.run([sys.executable, "-c", CODES], cwd=ROOT, capture_output=True, check=True)
    found: dict[str, str] = {}
    for row in ROW.finditer((ROOT / "docs" / "reference.md").read_text("utf-8")):
        codes, statuses = re.findall(r"\w+", row["codes"]), re.findall(r"\d+", row["statuses"])
        found |= dict(zip(codes, statuses * len(codes) if len(statuses) == 1 else statuses, strict=False))
    assert {code: int(status) for code, status in found.items()} == json.loads(ran.stdout)
