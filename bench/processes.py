"""Child processes pinned to a core, and what /proc says about them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process has in memory, in bytes: ``rss`` counts shared pages whole, ``pss`` by this process's share."""

    rss: int
    pss: int


class Child:
    """A process, on one core if one is named, ended by its pid when the block ends. What it prints goes to a file;
    ``environment`` replaces ours."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        core: int | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        # taskset execs the command, so the pid is the command's own.
        pin = [] if core is None else ["taskset", "-c", str(core)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*pin, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Terminate it, and kill it if that takes longer than 5 s; nothing if it has ended."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to end, and do not wait."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Raise :class:`BenchError`, with the last lines it printed, when the process has ended."""
        code = self._process.poll()
        if code is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-8:]
            raise BenchError("\n  ".join([f"{self.name} ended with exit code {code}; its last lines:", *lines]))

    def cpu(self) -> float:
        """CPU seconds so far, user and system, of all its threads (proc(5), ``/proc/pid/stat`` fields 14 and 15)."""
        self.check()
        return cpu_seconds(self._process.pid)

    def memory(self) -> Memory:
        """Resident memory now."""
        self.check()
        return memory_of(self._process.pid)


def memory_of(pid: int) -> Memory:
    """What :meth:`Child.memory` says, of any process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(value) for name, value in re.findall(r"^(Rss|Pss): +(\d+) kB$", text, re.MULTILINE)}
    return Memory(kib["Rss"] * 1024, kib["Pss"] * 1024)


def cpu_seconds(pid: int) -> float:
    """What :meth:`Child.cpu` says, of any process."""
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def peak_memory(pid: int) -> int:
    """The most bytes that were resident so far (proc(5), ``VmHWM``)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise BenchError(f"process {pid} has ended")
    return int(found[1]) * 1024


def machine_cpu_seconds() -> float:
    """CPU seconds so far that any process of this machine has had, or that its host has taken for itself."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + steal) / TICKS_PER_SECOND
