"""What a sidecar has in memory that has just started and does nothing.

``python -m bench.idle`` prints a table; ``--write`` puts it into docs/benchmarks.md. ``--source`` measures another
checkout, whose bytecode is written first: compiling it leaves holes in memory, and an installed sidecar has it.
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from bench.page import IDLE, facts, page, table
from bench.processes import Memory, memory_of

ROOT: Final = Path(__file__).resolve().parent.parent
#: Seconds from its being ready to the measurement.
REST: Final = 3.0

_AMQP: Final = {"bind": "127.0.0.1:0", "protocol": "amqp", "endpoints": ["127.0.0.1:1"]}
_WEB: Final = {"bind": "127.0.0.1:0", "endpoints": ["127.0.0.1:1"]}


def configurations(folder: Path) -> dict[str, dict[str, Any]]:
    """What is measured: title → keys beside an app, inbound and the admin API. Nobody is there to be reached."""
    account = {"username": "sidecar", "password": "sidecar"}
    spool = {"credentials": account, "spool": {"path": str(folder / "spool")}}
    return {
        "HTTP": {"upstreams": {"web": _WEB}},
        "HTTP and AMQP": {"upstreams": {"web": _WEB, "mq": _AMQP}},
        "HTTP and AMQP with a spool": {"upstreams": {"web": _WEB, "mq": {**_AMQP, "amqp": spool}}},
        "HTTP, Consul": {"upstreams": {"web": _WEB}, "registry": "consul://127.0.0.1:1"},
    }


@dataclass(frozen=True, slots=True)
class Sample:
    """One start: memory, and the CPU time to be ready and end again, seconds."""

    memory: Memory
    cpu: float


def measure(keys: dict[str, Any], folder: Path, source: Path) -> Sample:
    """Start a sidecar, let it rest, and end it."""
    file = folder / "sidecar.yaml"
    common = {"service": {"name": "a", "app": "127.0.0.1:1"}, "inbound": {"bind": "127.0.0.1:0"}}
    file.write_text(yaml.safe_dump({**common, "admin": {"bind": "127.0.0.1:0"}, **keys}))
    environment = os.environ | {"PYTHONPATH": str(source)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sidecar", "run", str(file)]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if '"msg":"ready"' in line:
                break
        else:
            raise SystemExit("".join(lines))
        time.sleep(REST)
        memory = memory_of(process.pid)
        process.terminate()
        process.stderr.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Sample(memory, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def section(found: dict[str, list[Sample]], about: str) -> str:
    """What docs/benchmarks.md says about it, without the title."""
    rows = [
        [
            title,
            f"{median(it.memory.rss for it in samples) / 2**20:.1f}",
            f"{median(it.cpu for it in samples):.2f}",
        ]
        for title, samples in found.items()
    ]
    return f"""A sidecar that is ready and has nothing to do, with an app, `inbound`, the admin API and these ports.

{table(["ports", "resident MiB", "CPU seconds to start and end"], rows)}

{about}

- The source as it is, interpreted, with its bytecode on the disk, as `pip install` leaves it: without that, compiling
  it costs about 3 MiB more. Each figure is the median of some starts.
- Libraries that only the tests bring along are there as well: Brotli, which aiohttp takes where it finds it, is 1 MiB
  of that with Consul. aiohttp is loaded there alone."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind (%(default)s)")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout to measure (default: this one)")
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    options = parser.parse_args()
    about = facts(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], {})
    found: dict[str, list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="idle-") as name:
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = f"{name}/bytecode"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        compileall.compile_dir(options.source / "sidecar", quiet=1)
        for title, keys in configurations(Path(name)).items():
            measure(keys, Path(name), options.source)  # bytecode of libraries
            found[title] = [measure(keys, Path(name), options.source) for _ in range(options.repeats)]
            print(title, *(f"{it.memory.rss / 2**20:.1f}" for it in found[title]), flush=True)
    text = section(found, f"Measured by `python -m bench.idle --write`.\n\n{about}")
    print(text)
    if options.write:
        path = ROOT / "docs" / "benchmarks.md"
        path.write_text(page(path.read_text(), {IDLE: text}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
