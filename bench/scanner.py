"""What the head scanner in C saves: one exchange without sockets, with it and without, interpreted and compiled.

``python -m bench.scanner`` prints a table; ``--write`` puts it into docs/benchmarks.md. Instructions are counted by
valgrind, and do not depend on what else the machine does; CPU time is the best of some rounds. It takes valgrind with
its headers, and gcc.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from bench.hotpath import ANSWER, BROWSER, REQUEST, connected
from bench.page import HEADS, facts, page, table

ROOT: Final = Path(__file__).resolve().parent.parent
COMPILED: Final = ROOT / ".venv-compiled" / "bin" / "python"
REQUESTS: Final = {"bare": REQUEST, "nine headers": BROWSER}
#: Exchanges that are counted, and those of each of the rounds that are timed.
COUNTED: Final = 500
TIMED: Final = 4000
ROUNDS: Final = 9
#: Python asks valgrind through these to begin, and to write down what it has counted.
_SWITCH: Final = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(void) { CALLGRIND_DUMP_STATS; }
"""


async def runs() -> dict[str, Callable[[int], None]]:
    """For each kind of request: what does so many exchanges."""
    _, client, conn = await connected()

    def run(request: bytes, times: int) -> None:
        for _ in range(times):
            client.data_received(request)
            conn.data_received(ANSWER)

    return {name: partial(run, request) for name, request in REQUESTS.items()}


async def count(switch: str) -> None:
    """Within valgrind: have the instructions of each kind counted. What is done for the first time is not."""
    calls = ctypes.CDLL(switch)
    gc.disable()
    for run in (await runs()).values():
        run(100)
        calls.begin()
        run(20)
        calls.zero()
        run(COUNTED)
        calls.dump()


async def clock() -> None:
    """Print the microseconds of an exchange of each kind."""
    for run in (await runs()).values():
        best = float("inf")
        for _ in range(ROUNDS):
            begun = time.process_time()
            run(TIMED)
            best = min(best, time.process_time() - begun)
        print(best / TIMED * 1e6)


def measure(python: Path, scanner: str, folder: Path) -> list[float]:
    """Instructions of both kinds, then microseconds of both."""
    environment = {**os.environ, "SIDECAR_SCANNER": scanner, "PYTHONHASHSEED": "0"}
    if python == Path(sys.executable):
        environment["PYTHONPATH"] = str(ROOT)
    child = [str(python), "-P", "-m", "bench.scanner"]
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
    subprocess.run(
        [*valgrind, *child, "--count", str(folder / "switch.so")],
        cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found = [
        float(re.findall(r"^(?:totals|summary): (\d+)", (folder / f"out.{n}").read_text(), re.M)[-1]) for n in (1, 2)
    ]
    clocked = subprocess.run(
        [*child, "--clock"], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return [number / COUNTED for number in found] + [float(line) for line in clocked.stdout.split()]


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

- Instructions are counted by valgrind over {COUNTED} exchanges; CPU time is the best of {ROUNDS} rounds of {TIMED}.
- Without the scanner means `SIDECAR_SCANNER=python`, in the same build."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scanner", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument(
        "--compiled", type=Path, default=COMPILED, help="a Python with the compiled build (%(default)s)"
    )
    parser.add_argument("--count", help=argparse.SUPPRESS)
    parser.add_argument("--clock", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count or options.clock:
        asyncio.run(clock() if options.clock else count(options.count))
        return 0
    about = facts(
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], {"valgrind": ["valgrind", "--version"]}
    )
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="scanner-") as name:
        folder = Path(name)
        (folder / "switch.c").write_text(_SWITCH)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "switch.so", folder / "switch.c"], check=True)
        for build, python in (("interpreted", Path(sys.executable)), ("compiled", options.compiled)):
            for scanner, what in (("python", build), ("c", f"{build}, scanner")):
                rows[what] = measure(python, scanner, folder)
                print(what, *(f"{it:,.1f}" for it in rows[what]), flush=True)
                for file in folder.glob("out*"):
                    file.unlink()
    text = section(rows, f"Measured by `python -m bench.scanner --write`.\n\n{about}")
    print(text)
    if options.write:
        path = ROOT / "docs" / "benchmarks.md"
        path.write_text(page(path.read_text(), {HEADS: text}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
