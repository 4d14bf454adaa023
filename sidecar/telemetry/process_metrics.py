"""What the process uses, and Python's version and garbage collector: under the names that prometheus_client gives them,
which dashboards and alerts know."""

from __future__ import annotations

import gc
import os
import platform
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.core.metrics import Family, counter, gauge

#: Where the fields of /proc/self/stat stand behind the name of the program, which may contain anything (proc(5)).
_UTIME, _STIME, _STARTTIME, _VSIZE, _RSS = 11, 12, 19, 20, 21
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = resource.getpagesize()


def process_families(proc: Path = Path("/proc")) -> Sequence[Family]:
    """Return what Linux says of this process; elsewhere nothing."""
    try:
        fields = (proc / "self/stat").read_bytes().rpartition(b")")[2].split()
        started = _boot_time(proc) + int(fields[_STARTTIME]) / _TICKS
        descriptors = len(os.listdir(proc / "self/fd")) - 1  # without the one that looks
    except (OSError, LookupError, ValueError):
        return ()
    return (
        _one(gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."), int(fields[_VSIZE])),
        _one(gauge("process_resident_memory_bytes", "Resident memory size in bytes."), int(fields[_RSS]) * _PAGE),
        _one(gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds."), started),
        _one(
            counter("process_cpu_seconds", "Total user and system CPU time spent in seconds."),
            (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS,
        ),
        _one(gauge("process_open_fds", "Number of open file descriptors."), descriptors),
        _one(
            gauge("process_max_fds", "Maximum number of open file descriptors."),
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        ),
    )


def python_families() -> Sequence[Family]:
    """Return which Python this is, and what its garbage collector has done."""
    version = platform.python_version()
    labels = ("version", "implementation", "major", "minor", "patchlevel")
    info = gauge("python_info", "Python platform information", labels)
    info.add((version, platform.python_implementation(), *platform.python_version_tuple()), 1)
    collected = counter("python_gc_objects_collected", "Objects collected during gc", ("generation",))
    lost = counter("python_gc_objects_uncollectable", "Uncollectable objects found during GC", ("generation",))
    runs = counter("python_gc_collections", "Number of times this generation was collected", ("generation",))
    for generation, stats in enumerate(gc.get_stats()):
        collected.add((str(generation),), stats["collected"])
        lost.add((str(generation),), stats["uncollectable"])
        runs.add((str(generation),), stats["collections"])
    return info, collected, lost, runs


def _one(family: Family, value: float) -> Family:
    family.add((), value)
    return family


def _boot_time(proc: Path) -> float:
    for line in (proc / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise LookupError("btime")
