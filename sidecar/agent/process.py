"""What the sidecar does to its own process."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Allocations between two runs of the garbage collector, and runs between two of the next generation. Exchanges are
#: freed by their counts; the collector is for the few cycles that closed connections leave.
GC_THRESHOLD: Final = (10_000, 20, 50)
#: ``prctl`` (Linux, prctl(2)): the signal that comes when the parent has ended.
_PR_SET_PDEATHSIG: Final = 1


def raise_file_limit() -> None:
    """Let it have all the descriptors that it may: every connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@functools.cache
def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes of memory this process may have: its container's limit, or what the machine has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limit_files(groups, root):
        with contextlib.suppress(OSError, ValueError):  # "max": there is none
            limits.append(int(path.read_text()))
    return min(limits)


def _limit_files(groups: Path, root: Path) -> Iterator[Path]:
    """Where the kernel says it, for both versions of control groups (cgroups(7)). In a container the group's own path
    may be another one than that of its file system, whose root it is then."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from (root / where / "memory.max" for where in (path.strip("/"), ""))
        elif "memory" in controllers.split(","):
            yield from (root / "memory" / where / "memory.limit_in_bytes" for where in (path.strip("/"), ""))


def keep_heap() -> None:
    """Let memory that bodies lie in stay with the process, up to 2 MiB of it. Left to itself, glibc gives the kernel
    back what a body of 256 KiB took, and asks for it again for the next one: with its page faults that is a third of
    what a body of 1 MiB costs. In C, as ``ctypes`` would take 0.4 MiB; where nothing could be compiled, it is not
    done."""
    with contextlib.suppress(ImportError):
        from sidecar.agent._memory import keep_heap

        keep_heap()


def end_with_parent(number: int) -> None:
    """Get this signal when the process that has started this one ends, however it does (Linux, prctl(2))."""
    if sys.platform == "linux":
        import ctypes  # takes 0.4 MiB, which others need not have

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def collect_rarely() -> None:
    """Have the garbage collector look after as many allocations as suit a sidecar."""
    gc.set_threshold(*GC_THRESHOLD)


def settle() -> None:
    """Tell what was for the start from what is for the traffic. What exists now lives as long as the process, and the
    garbage collector looks at it no more. And what is in memory of libraries is let go: three quarters of it is what
    only the start ran through, with what the kernel maps around each page (64 KiB); the rest comes back when it is run,
    from the page cache, where it stays for whoever has it. In C; where nothing could be compiled, the kernel alone
    sees to that, when it is short of memory."""
    gc.collect()
    gc.freeze()
    collect_rarely()
    with contextlib.suppress(ImportError):
        from sidecar.agent._memory import let_go

        let_go()
