"""What a sidecar has in memory that has just started and does nothing, and what connections add that do nothing.

``python -m bench.idle`` prints tables; ``--write`` puts them into docs/benchmarks.md. ``--source`` measures another
checkout, whose bytecode is written first: compiling it leaves holes in memory, and an installed sidecar has it. The
compiled build is measured, too, where ``make compiled`` has made one.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import re
import resource
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from bench.contenders import compiled_program
from bench.page import IDLE, facts, page, table
from bench.processes import BenchError, Memory, memory_of
from sidecar.demo.ports import free_ports

ROOT: Final = Path(__file__).resolve().parent.parent
#: Seconds from its being ready to the measurement.
REST: Final = 3.0
#: Clients that are connected and do nothing.
CONNECTIONS: Final = 10_000

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


@dataclass(frozen=True, slots=True)
class Build:
    """How a sidecar is started, and what of."""

    name: str
    command: tuple[str, ...]
    source: Path

    @contextlib.contextmanager
    def running(self, keys: dict[str, Any], folder: Path) -> Iterator[int]:
        """The process id of one that is ready, until the block ends."""
        file = folder / "sidecar.yaml"
        common = {"service": {"name": "a", "app": "127.0.0.1:1"}, "inbound": {"bind": "127.0.0.1:0"}}
        file.write_text(yaml.safe_dump({**common, "admin": {"bind": "127.0.0.1:0"}, **keys}))
        environment = os.environ | {"PYTHONPATH": str(self.source)}
        command = [*self.command, "run", str(file)]
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if '"msg":"ready"' in line:
                    break
            else:
                raise SystemExit("".join(lines))
            yield process.pid
            process.terminate()
            process.stderr.read()


def builds(source: Path) -> list[Build]:
    """What there is to measure: that source as it is, and a compiled build of this checkout."""
    found = [Build("interpreted", (sys.executable, "-m", "sidecar"), source)]
    with contextlib.suppress(BenchError):
        found.append(Build("compiled", (str(compiled_program()),), Path()))
    return found


def measure(build: Build, keys: dict[str, Any], folder: Path) -> Sample:
    """Start a sidecar, let it rest, and end it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with build.running(keys, folder) as pid:
        time.sleep(REST)
        memory = memory_of(pid)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Sample(memory, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def own_memory(pid: int) -> int:
    """Bytes that no file has: what connections add, without code that runs for the first time."""
    found = re.search(r"^Anonymous: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class App(socketserver.StreamRequestHandler):
    """Has nothing to say, to any request without a body."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"\r\n":
                self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def each_connection(build: Build, folder: Path) -> float:
    """Bytes for each of so many connections of clients, which have had one answer and keep theirs open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (CONNECTIONS + 200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    (port,) = free_ports(1)
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), App))
        app.daemon_threads = True
        threading.Thread(target=app.serve_forever, daemon=True).start()
        stack.callback(app.shutdown)
        web = {"bind": f"127.0.0.1:{port}", "endpoints": [f"127.0.0.1:{app.server_address[1]}"]}
        pid = stack.enter_context(build.running({"upstreams": {"web": web}}, folder))
        before = 0
        for number in range(CONNECTIONS + 100):
            if number == 100:  # what the first ones need stays
                time.sleep(REST)
                before = own_memory(pid)
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.recv(65536)
            if not answer.startswith(b"HTTP/1.1 204 "):
                raise SystemExit(f"connection {number} was answered {answer[:80]!r}")
        time.sleep(REST)
        return (own_memory(pid) - before) / CONNECTIONS


def section(found: dict[str, dict[str, list[Sample]]], each: dict[str, float], about: str) -> str:
    """What docs/benchmarks.md says about it, without the title: samples by title and build, bytes by build."""
    names = list(each)
    rows = [
        [
            title,
            *(f"{median(it.memory.rss for it in samples[name]) / 2**20:.1f}" for name in names),
            *(f"{median(it.cpu for it in samples[name]):.2f}" for name in names),
        ]
        for title, samples in found.items()
    ]
    head = ["ports", *(f"resident MiB, {name}" for name in names), *(f"CPU seconds, {name}" for name in names)]
    connections = "; ".join(f"{name} **{size / 1024:.2f} KiB**" for name, size in each.items())
    return f"""A sidecar that is ready and has nothing to do, with an app, `inbound`, the admin API and these ports;
and the CPU time to start and end it.

{table(head, rows)}

Each of {CONNECTIONS:,} connections that are open and idle, with an answer behind it, beside what the kernel has for it:
{connections}.

{about}

- Each figure is the median of some starts, but that of idle connections, which is of one. Interpreted it has its
  bytecode on the disk, as `pip install` leaves it: without that, compiling it costs about 3 MiB more.
- Libraries that only the tests bring along are there as well: Brotli, which aiohttp takes where it finds it, is 1 MiB
  of that with Consul. aiohttp is loaded there alone."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind (%(default)s)")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout to measure (default: this one)")
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    options = parser.parse_args()
    about = facts(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], {})
    found: dict[str, dict[str, list[Sample]]] = {}
    each: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="idle-") as name:
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = f"{name}/bytecode"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        compileall.compile_dir(options.source / "sidecar", quiet=1)
        for build in builds(options.source):
            for title, keys in configurations(Path(name)).items():
                measure(build, keys, Path(name))  # bytecode of libraries
                samples = [measure(build, keys, Path(name)) for _ in range(options.repeats)]
                found.setdefault(title, {})[build.name] = samples
                print(build.name, title, *(f"{it.memory.rss / 2**20:.1f}" for it in samples), flush=True)
            each[build.name] = each_connection(build, Path(name))
            print(build.name, f"each idle connection: {each[build.name]:.0f} bytes", flush=True)
    text = section(found, each, f"Measured by `python -m bench.idle --write`.\n\n{about}")
    print(text)
    if options.write:
        path = ROOT / "docs" / "benchmarks.md"
        path.write_text(page(path.read_text(), {IDLE: text}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
