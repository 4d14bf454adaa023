"""Whether a machine that does other work, too, has let processes run when they wanted to."""

from __future__ import annotations

from pathlib import Path


def queued(*pids: int) -> float:
    """Seconds that the threads of these processes have stood in line for a core since they began; 0 where the kernel
    does not count them (proc(5): the second number of ``schedstat``)."""
    nanoseconds = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                nanoseconds += int(task.read_text().split()[1])
            except OSError:  # the thread has ended
                pass
    return nanoseconds / 1e9
