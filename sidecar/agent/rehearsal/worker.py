"""``python -m sidecar.agent.rehearsal.worker``: the process of a rehearsal. The sidecar starts it, hands in the record,
and reads lines of JSON: the share that is done, and at the end the result, or the problems of the configuration.

It has a process of its own, so that traffic neither waits for it nor shares a lock with it, and is worth less to the
system than traffic.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import sys
from typing import Any, BinaryIO, Final

import sidecar.filters.order  # noqa: F401 - filters declare their keys
from sidecar.agent.rehearsal.rehearse import Rehearsal
from sidecar.config.errors import ConfigError
from sidecar.config.load import load_foreign

#: Seconds of CPU time, and bytes of memory.
CPU_SECONDS: Final = 300
MOST_MEMORY: Final = 2 << 30
#: How much less urgent it is than traffic (nice(2)).
NICE: Final = 10


def work(given: BinaryIO, tell: Any) -> None:
    """Read what is given, and ``tell`` what comes of it, one object after the other."""
    asked: dict[str, Any] = pickle.load(given)
    segments = [pickle.load(given) for _ in range(asked["segments"])]
    running = load_foreign(asked["running"], "running")
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
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    out = sys.stdout.buffer

    def tell(it: Any) -> None:
        out.write(json.dumps(it).encode() + b"\n")
        out.flush()

    work(sys.stdin.buffer, tell)


if __name__ == "__main__":
    main()
