"""``make bench-history``: a line in docs/benchmarks.md for this commit: the instructions of ``bench.hotpath``.

A change that costs half a percent hides in the noise of every clock, and ten of them are five percent. Instructions are
counted by valgrind: they are the same on a busy machine, and lines of different days can be compared, as long as Python
is the same.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.counting import COMPILED, PARTS, build_switch, counted
from bench.page import HISTORY, page, split, table
from bench.processes import ROOT

PAGE: Final = ROOT / "docs" / "benchmarks.md"
BUILDS: Final = {"interpreted": Path(sys.executable), "compiled": COMPILED}
HEAD: Final = ["commit", "date", "Python", *(f"{part}, {build}" for build in BUILDS for part in PARTS)]
_ABOUT: Final = """Instructions by commit, written by `make bench-history`: what `bench.hotpath` takes for one exchange
of each of its two kinds (a bare request, one with nine headers), and with `--part amqp` for one message of each of its
six; with the head scanner.

"""


def section(old: str, line: list[str]) -> str:
    """The section with that line as the last one, in place of one that its commit has already."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in old.splitlines() if row.startswith("|")]
    return _ABOUT + table(HEAD, [*(row for row in rows[2:] if row[0] != line[0]), line])


def main() -> int:
    commit = _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "sidecar") else "")
    line = [commit, datetime.now(UTC).strftime("%Y-%m-%d"), platform.python_version()]
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        switch = build_switch(Path(folder))
        for build, python in BUILDS.items():
            for part in PARTS:
                line.append(f"{sum(counted(python, 'c', part, switch)):,.0f}")
                print(f"{build}, {part}: {line[-1]}", flush=True)
    old = PAGE.read_text()
    PAGE.write_text(page(old, {HISTORY: section(split(old).get(HISTORY, ""), line)}))
    return 0


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
