"""``make bench-history``: a line in docs/benchmarks.md for this commit: the instructions of ``bench.hotpath``.

A change that costs half a percent hides in the noise of every clock, and ten of them are five percent. Instructions are
counted by valgrind: they are the same on a busy machine, and lines of different days can be compared, as long as Python
is the same.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.page import HISTORY, page, split, table
from bench.processes import ROOT
from bench.scanner import COMPILED

PAGE: Final = ROOT / "docs" / "benchmarks.md"
#: How much is done in the shorter and in the longer of two runs. Their difference has no start in it and no warming up.
FEW: Final = 1000
MANY: Final = 3000
PARTS: Final = ("http", "amqp")
BUILDS: Final = {"interpreted": Path(sys.executable), "compiled": COMPILED}
HEAD: Final = ["commit", "date", "Python", *(f"{part}, {build}" for build in BUILDS for part in PARTS)]
_ABOUT: Final = """Instructions by commit, written by `make bench-history`: what `bench.hotpath` takes for one exchange
of each of its two kinds (a bare request, one with nine headers), and with `--part amqp` for one message of each of its
six; with the head scanner.

"""


def instructions(python: Path, part: str) -> int:
    """What one of each kind takes in that build. Raises :class:`subprocess.CalledProcessError`."""
    few, many = (_total(python, part, count) for count in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def _total(python: Path, part: str, count: int) -> int:
    environment = {**os.environ, "SIDECAR_SCANNER": "c", "PYTHONHASHSEED": "0"}
    if python != COMPILED:  # it has this folder behind what is installed
        environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        out = Path(folder, "out")
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", python, "-P", "-m", "bench.hotpath",
             "--part", part, "--exchanges", str(count)],
            cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return int(re.findall(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)[-1])


def section(old: str, line: list[str]) -> str:
    """The section with that line as the last one, in place of one that its commit has already."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in old.splitlines() if row.startswith("|")]
    return _ABOUT + table(HEAD, [*(row for row in rows[2:] if row[0] != line[0]), line])


def main() -> int:
    commit = _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "sidecar") else "")
    line = [commit, datetime.now(UTC).strftime("%Y-%m-%d"), platform.python_version()]
    for build, python in BUILDS.items():
        for part in PARTS:
            line.append(f"{instructions(python, part):,}")
            print(f"{build}, {part}: {line[-1]}", flush=True)
    old = PAGE.read_text()
    PAGE.write_text(page(old, {HISTORY: section(split(old).get(HISTORY, ""), line)}))
    return 0


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
