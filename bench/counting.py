"""``counted``: the instructions of an exchange, or of a message, in a build; and what runs within valgrind for that.

Instructions do not depend on what else the machine does. It takes valgrind with its headers, and gcc.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.amqp.hotpath import Kind, session
from bench.hotpath import ANSWER, BROWSER, REQUEST, connected
from bench.processes import ROOT

COMPILED: Final = ROOT / ".venv-compiled" / "bin" / "python"
REQUESTS: Final = {"bare": REQUEST, "nine headers": BROWSER}
#: Exchanges or messages of each kind that are counted.
COUNTED: Final = 480
#: Those before, which have the interpreter know what it needs. Both are multiples of what comes at a time.
WARM: Final = 200
#: Python asks valgrind through these to begin, to write down what it has counted, and to end. It ends between two
#: kinds: callgrind would count some of what is done there with the next, as costs of functions that were called once.
_SWITCH: Final = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(void) { CALLGRIND_DUMP_STATS; }
void end(void) { CALLGRIND_STOP_INSTRUMENTATION; }
"""


Runs = dict[str, Callable[[int], Callable[[], None]]]


async def exchanges() -> Runs:
    """For each kind of request: what makes ready so many exchanges, and gives what has them."""
    _, client, conn = await connected()

    def run(request: bytes, times: int) -> None:
        for _ in range(times):
            client.data_received(request)
            conn.data_received(ANSWER)

    def prepare(request: bytes, times: int) -> Callable[[], None]:
        return partial(run, request, times)

    return {name: partial(prepare, request) for name, request in REQUESTS.items()}


async def messages() -> Runs:
    """The same for each kind of message."""
    kinds, _ = await session()

    def prepare(kind: Kind, times: int) -> Callable[[], None]:
        return partial(kind.run, kind.prepare(times))

    return {kind.name: partial(prepare, kind) for kind in kinds}


PARTS: Final = {"http": exchanges, "amqp": messages}


def build_switch(folder: Path) -> Path:
    """What Python switches valgrind's counting with."""
    source, made = folder / "switch.c", folder / "switch.so"
    source.write_text(_SWITCH)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source], check=True)
    return made


def environment_of(python: Path, scanner: str) -> dict[str, str]:
    """What the build of that Python runs with; the compiled one has this folder behind what is installed."""
    more = {"PYTHONPATH": str(ROOT)} if python == Path(sys.executable) else {}
    return {**os.environ, "SIDECAR_SCANNER": scanner, "PYTHONHASHSEED": "0", **more}


def counted(python: Path, scanner: str, part: str, switch: Path) -> list[float]:
    """Instructions of one of each kind of that part. Raises :class:`subprocess.CalledProcessError`."""
    folder = switch.parent
    out = folder / "out"
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    subprocess.run(
        [*valgrind, str(python), "-P", "-m", "bench.counting", part, str(switch)],
        cwd=folder, env=environment_of(python, scanner), check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found: list[float] = []
    while (file := out.with_suffix(f".{len(found) + 1}")).exists():
        found.append(float(re.findall(r"^(?:totals|summary): (\d+)", file.read_text(), re.MULTILINE)[-1]) / COUNTED)
        file.unlink()
    return found


async def count(part: str, switch: str) -> None:
    """Within valgrind: have the instructions of each kind counted. What is done for the first time is not."""
    calls = ctypes.CDLL(switch)
    gc.disable()
    for prepare in (await PARTS[part]()).values():
        warm, again, run = prepare(WARM), prepare(WARM), prepare(COUNTED)
        warm()
        calls.begin()
        again()
        calls.zero()
        run()
        calls.dump()
        calls.end()


if __name__ == "__main__":
    asyncio.run(count(*sys.argv[1:]))
