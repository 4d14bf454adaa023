"""``python -m bench.rolling``: a rolling restart of every workload with its sidecar, under 200 requests and 500
messages a second, with a real Consul and a real RabbitMQ. Prints what was lost; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from bench.processes import ROOT, BenchError, Child
from bench.rabbitmq import RabbitMQ
from bench.rolling.mesh import ORDERS, PATIENCE, SAFE, Outcome, roll
from sidecar.demo.ports import free_ports


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rolling", description=__doc__)
    parser.add_argument("--requests", type=float, default=200.0, help="a second (default: 200)")
    parser.add_argument("--messages", type=float, default=500.0, help="a second (default: 500)")
    parser.add_argument("--rounds", type=int, default=3, help="restarts of each of the four (default: 3)")
    parser.add_argument("--order", choices=ORDERS, action="append", help="only this one")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave logs there")
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolling-")))
            (folder / "rabbitmq").mkdir(parents=True)
            rabbitmq = stack.enter_context(RabbitMQ(folder / "rabbitmq", None))
            consul = _consul(folder, stack)
            rabbitmq.wait_ready()
            found = [
                roll(
                    folder / order, [order], consul, rabbitmq.port, (options.requests, options.messages), options.rounds
                )
                for order in options.order or SAFE
            ]
    except BenchError as error:
        print(f"bench.rolling: {error}", file=sys.stderr)
        return 1
    print("| order | restarts | requests | lost | messages | lost | twice | slowest request |")
    print("|---|---|---|---|---|---|---|---|")
    for it in found:
        print(_row(it))
    for it in found:
        for lost in it.lost[:20]:
            print(f"{it.order}: {json.dumps(lost)}", file=sys.stderr)
        for missing in it.missing[:20]:
            print(f"{it.order}: {missing} was confirmed, and never came", file=sys.stderr)
    return 0 if all(it.fine for it in found) else 1


def _row(it: Outcome) -> str:
    requests = sum(1 for lost in it.lost if lost["failed"] == "request")
    messages = len(it.lost) - requests + len(it.missing)
    return (
        f"| {it.order} | {it.restarts} | {it.requests} | {requests} | {it.messages} | {messages} | {it.twice} | "
        f"{it.slowest * 1000:.0f} ms |"
    )


def _consul(folder: Path, stack: ExitStack) -> int:
    """A server by itself; its HTTP port."""
    program = os.environ.get("SIDECAR_CONSUL") or str(ROOT / ".cache" / "consul" / "consul")
    if not os.access(program, os.X_OK):
        program = shutil.which("consul") or ""
    if not program:
        raise BenchError("there is no consul here: scripts/ensure-consul, or name one in SIDECAR_CONSUL")
    http, server, serf = free_ports(3)
    ports = {"http": http, "server": server, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1}
    file = folder / "consul.json"
    file.write_text(json.dumps({"ports": ports, "bind_addr": "127.0.0.1", "disable_update_check": True}))
    child = stack.enter_context(
        Child("consul", [program, "agent", "-dev", "-config-file", file], None, folder / "consul.log")
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/v1/status/leader", timeout=5) as answer:
                if len(answer.read()) > 2:
                    return http
        except OSError:
            child.check()
        time.sleep(0.1)
    raise BenchError("consul has no leader")


if __name__ == "__main__":
    raise SystemExit(main())
