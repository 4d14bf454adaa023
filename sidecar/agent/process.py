"""What the sidecar does to its own process."""

from __future__ import annotations

import contextlib
import gc
import resource
from typing import Final

#: Allocations between two runs of the garbage collector, and runs between two of the next generation. Exchanges are
#: freed by their counts; the collector is for the few cycles that closed connections leave.
GC_THRESHOLD: Final = (10_000, 20, 50)


def raise_file_limit() -> None:
    """Let it have all the descriptors that it may: every connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def freeze_garbage() -> None:
    """Have the garbage collector look no more at what exists now, which lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
