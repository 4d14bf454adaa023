"""What the head scanner in C saves: one exchange without sockets, with it and without, interpreted and compiled.

``python -m bench.scanner`` prints a table; ``--write`` puts it into docs/benchmarks.md. Instructions are counted by
valgrind, and do not depend on what else the machine does; CPU time is the best of some rounds. It takes valgrind with
its headers, and gcc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.counting import COMPILED, COUNTED, REQUESTS, build_switch, counted, environment_of, exchanges
from bench.page import HEADS, facts, page, table
from bench.processes import ROOT

#: Exchanges of each of the rounds that are timed.
TIMED: Final = 4000
ROUNDS: Final = 9


async def clock() -> None:
    """Print the microseconds of an exchange of each kind."""
    for prepare in (await exchanges()).values():
        best = float("inf")
        run = prepare(TIMED)
        for _ in range(ROUNDS):
            begun = time.process_time()
            run()
            best = min(best, time.process_time() - begun)
        print(best / TIMED * 1e6)


def measure(python: Path, scanner: str, switch: Path) -> list[float]:
    """Instructions of both kinds, then microseconds of both."""
    clocked = subprocess.run(
        [str(python), "-P", "-m", "bench.scanner", "--clock"],
        cwd=switch.parent, env=environment_of(python, scanner), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return counted(python, scanner, "http", switch) + [float(line) for line in clocked.stdout.split()]


def section(rows: dict[str, list[float]], about: str) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    kinds = [*REQUESTS]
    head = ["", *(f"instructions, {kind}" for kind in kinds), *(f"CPU µs, {kind}" for kind in kinds)]
    lines = [
        [name, *(f"{it:,.0f}" for it in found[:2]), *(f"{it:.1f}" for it in found[2:])] for name, found in rows.items()
    ]
    return f"""One exchange as in `bench.hotpath`: a request's head, an answer with five fields and a small body, and
all between them, without sockets and without the kernel.

{table(head, lines)}

{about}

- Instructions are counted by valgrind over {COUNTED} exchanges; CPU time is the best of {ROUNDS} rounds of {TIMED},
  which wander by a third on a machine that is shared.
- Without the scanner means `SIDECAR_SCANNER=python`, in the same build."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scanner", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument(
        "--compiled", type=Path, default=COMPILED, help="a Python with the compiled build (%(default)s)"
    )
    parser.add_argument("--clock", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clock:
        asyncio.run(clock())
        return 0
    about = facts(
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], {"valgrind": ["valgrind", "--version"]}
    )
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="scanner-") as name:
        switch = build_switch(Path(name))
        for build, python in (("interpreted", Path(sys.executable)), ("compiled", options.compiled)):
            for scanner, what in (("python", build), ("c", f"{build}, scanner")):
                rows[what] = measure(python, scanner, switch)
                print(what, *(f"{it:,.1f}" for it in rows[what]), flush=True)
    text = section(rows, f"Measured by `python -m bench.scanner --write`.\n\n{about}")
    print(text)
    if options.write:
        path = ROOT / "docs" / "benchmarks.md"
        path.write_text(page(path.read_text(), {HEADS: text}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
