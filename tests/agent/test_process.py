"""What a process may have, as the kernel says it."""

from __future__ import annotations

import json
import mmap
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


linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems tell nothing of mappings")


@linux
def test_what_only_the_start_needed_is_let_go_and_comes_back_when_it_is_used() -> None:
    program = """
import asyncio, hashlib, json, re, ssl
from sidecar.agent.process import settle
def resident():
    found = dict(re.findall(r"^(Rss|Anonymous): +(\\d+)", open("/proc/self/smaps_rollup").read(), re.M))
    return int(found["Rss"]), int(found["Anonymous"])
before = resident()
settle()
after = resident()
ssl.create_default_context()
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert asyncio.run(asyncio.sleep(0, re.compile("(a|b)+").match("abba")[0])) == "abba"
print(json.dumps([before, after]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (resident, own), (kept, own_after) = json.loads(done.stdout)
    assert kept < resident - 2000, "libraries take more than 2 MiB"
    assert own_after > own - 500, "nothing of its own was lost"


@linux
def test_what_a_process_has_written_into_a_library_stays(tmp_path: Path) -> None:
    """As debuggers do, and the dynamic linker."""
    library = tmp_path / "written.so"
    library.write_bytes(bytes(3 * mmap.PAGESIZE))
    program = """
import ctypes, mmap, sys
from sidecar.agent._memory import let_go
libc = ctypes.CDLL(None)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
first = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
mapped[mmap.PAGESIZE] = 7
assert libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(len(mapped)), mmap.PROT_READ) == 0
assert let_go() > 0
assert mapped[0] == 0 and mapped[mmap.PAGESIZE] == 7
"""
    done = subprocess.run([sys.executable, "-c", program, str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
