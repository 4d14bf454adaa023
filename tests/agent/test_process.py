"""What a process may have, as the kernel says it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.agent.process import memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "file", "content", "limit"),
    [
        ("0::/a/b", "a/b/memory.max", "4096000", 4096000),
        ("0::/host/path", "memory.max", "4096000", 4096000),  # the root of a container
        ("0::/", "memory.max", "max", MACHINE),
        ("0::/", "memory.max", "", MACHINE),
        ("7:cpu,memory:/a", "memory/a/memory.limit_in_bytes", "4096000", 4096000),
        ("7:memory:/a", "memory/memory.limit_in_bytes", "9223372036854771712", MACHINE),
        ("7:cpu:/a", "memory/a/memory.limit_in_bytes", "4096000", MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str, file: str, content: str, limit: int) -> None:
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (tmp_path / "groups").write_text(groups + "\n")
    assert memory_limit(tmp_path / "groups", tmp_path / "cgroup") == limit


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none", tmp_path) == MACHINE
    assert 0 < memory_limit() <= MACHINE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have their own ways")
def test_memory_that_bodies_lie_in_is_not_given_back_each_time() -> None:
    program = """
import resource, sys
from sidecar.agent.process import keep_heap
keep_heap()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = [bytes(200_000), bytes(300_000)]
del held
before = faults()
for _ in range(100):
    bytes(200_000), bytes(300_000)
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 12 000 pages were used
