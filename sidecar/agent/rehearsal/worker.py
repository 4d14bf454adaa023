"""``python -m sidecar.agent.rehearsal.worker``: the process of a rehearsal. The sidecar starts it, hands in the record,
and reads lines of JSON: the share that is done, and at the end the result, or the problems of the configuration.

It has a process of its own, so that traffic neither waits for it nor shares a lock with it, and is worth less to the
system than traffic.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

import sidecar.filters.order  # noqa: F401 - filters declare their keys
from sidecar.agent.process import end_with_parent, memory_limit
from sidecar.agent.rehearsal.rehearse import Rehearsal
from sidecar.config.errors import ConfigError
from sidecar.config.load import load_foreign

#: Seconds of CPU time, and bytes of memory.
CPU_SECONDS: Final = 300
MOST_MEMORY: Final = 2 << 30
#: What the interpreter with all of the sidecar's modules needs of that before it begins, mapped files included.
_BASE_MEMORY: Final = 512 << 20
#: Characters of what went wrong that are told.
_MOST_TEXT: Final = 500
#: How much less urgent it is than traffic (nice(2)).
NICE: Final = 10


def memory() -> int:
    """How many bytes this process may have: a quarter of the sidecar's own limit beside what it takes to begin, so that
    a rehearsal is given up before the container runs out of memory."""
    return min(MOST_MEMORY, _BASE_MEMORY + memory_limit() // 4)


def work(given: BinaryIO, tell: Any) -> None:
    """Read what is given, and ``tell`` what comes of it, one object after the other."""
    asked: dict[str, Any] = pickle.load(given)
    segments = [pickle.load(given) for _ in range(asked["segments"])]
    try:
        running = load_foreign(asked["running"], "running")
    except ConfigError as error:
        tell({"failed": f"the running configuration is not understood: {error}"[:_MOST_TEXT]})
        return
    try:
        new = load_foreign(asked["configuration"], "configuration")
    except ConfigError as error:
        tell({"refused": str(error), "problems": [{"path": it.path, "message": it.message} for it in error.problems]})
        return
    share = 0.0

    def done(now: float) -> None:
        nonlocal share
        if now - share >= 0.02:
            share = now
            tell({"share": round(now, 3)})

    found = Rehearsal(
        running, new, segments, asked["salt"], asked["generation"], asked["now"], asked["wall"], done
    ).run()  # fmt: skip
    tell({"result": found})


def main() -> None:
    """Work, on standard input and output."""
    logging.disable(logging.CRITICAL)  # what happens here has not happened
    end_with_parent(signal.SIGKILL)
    os.nice(NICE)
    with contextlib.suppress(OSError):  # no such file: another system than Linux
        Path("/proc/self/oom_score_adj").write_text("1000")  # it goes first, and traffic stays
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (memory(),) * 2)
    out = sys.stdout.buffer

    def tell(it: Any) -> None:
        out.write(json.dumps(it).encode() + b"\n")
        out.flush()

    try:
        work(sys.stdin.buffer, tell)
    except Exception as error:  # whatever it is, the sidecar logs it
        tell({"failed": f"{type(error).__name__}: {error}"[:_MOST_TEXT]})


if __name__ == "__main__":
    main()
