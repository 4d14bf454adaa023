"""Commands in a workspace: processes in a group of their own, with limits, and none of them left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from examples.workspace_isolation.limits import Limits

LAUNCHER = Path(__file__).with_name("launch.py")
#: In each process's environment: by it they are found again, in other groups and after a restart of the service, too.
MARK = "WORKSPACE_ID"
#: What is kept of a command's output.
MAX_OUTPUT = 64 * 1024
#: How often disk and processes are counted while a command runs.
WATCH_SECONDS = 0.2


async def run(folder: Path, name: str, argv: list[str], limits: Limits) -> dict[str, object]:
    """Run a command to its end, or to that of what it may use. ``exit`` is its exit code, negative for a signal;
    ``ended_for`` says why it was ended, if it was."""
    began = time.monotonic()
    words = [limits.memory, limits.cpu_seconds, limits.disk, limits.files]
    # Not a pipe: what the command leaves in the background would keep that open.
    with tempfile.TemporaryFile(dir=folder) as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(LAUNCHER), *map(str, words), *argv,
            cwd=folder / "home", env=_environment(folder, name), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        watching = asyncio.create_task(_watch(folder, name, limits, began + limits.seconds))
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([ending, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            # What it has left in the background; if it had to be ended, or the client has left, itself.
            await asyncio.to_thread(end_all, folder.parent, {name})
            await ending
        document: dict[str, object] = {"exit": process.returncode, "seconds": round(time.monotonic() - began, 3)}
        output.seek(0)
        document["output"] = output.read(MAX_OUTPUT).decode(errors="replace")
    if watching.done() and not watching.cancelled():
        document["ended_for"] = watching.result()
    return document


def _environment(folder: Path, name: str) -> dict[str, str]:
    """Nothing of the service's own: there may be secrets."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8",
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), MARK: name,
    }  # fmt: skip


async def _watch(folder: Path, name: str, limits: Limits, deadline: float) -> str:
    """Return what there is too much of, as soon as there is."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if time.monotonic() > deadline:
            return "seconds"
        if await asyncio.to_thread(disk_use, folder) > limits.disk:
            return "disk"
        if await asyncio.to_thread(_count, folder, name) > limits.processes:
            return "processes"


def disk_use(folder: Path) -> int:
    """Bytes that a folder takes on its disk."""
    total = 0
    for parent, folders, files in os.walk(folder):
        for it in (*folders, *files):
            try:
                total += os.lstat(os.path.join(parent, it)).st_blocks * 512
            except OSError:  # it has gone meanwhile
                pass
    return total


def processes(root: Path, names: Collection[str]) -> Iterator[int]:
    """All processes of these workspaces: by the mark that they were started with, or by where they are."""
    marks = {f"{MARK}={it}".encode() for it in names}
    inside = tuple(f"{root / it}{os.sep}" for it in names)
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                found = not marks.isdisjoint(file.read().split(b"\0"))
            if found or os.readlink(f"/proc/{entry}/cwd").startswith(inside):
                yield int(entry)
        except OSError:  # it has ended, or is somebody else's
            pass


def _count(folder: Path, name: str) -> int:
    return sum(1 for _ in processes(folder.parent, {name}))


def end_all(root: Path, names: Collection[str]) -> int:
    """End all processes of these workspaces; return how many there were, once they are gone. They are
    stopped first, so that none makes another one meanwhile."""
    known: set[int] = set()
    while new := set(processes(root, names)) - known:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        known |= new
    for pid in known:
        _signal(pid, signal.SIGKILL)
    given_up = time.monotonic() + 5  # one that hangs in the kernel ends when that lets it
    while any(processes(root, names)) and time.monotonic() < given_up:
        time.sleep(0.01)
    return len(known)


def _signal(pid: int, which: signal.Signals) -> None:
    try:
        os.kill(pid, which)
    except ProcessLookupError:
        pass
