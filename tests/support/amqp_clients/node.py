"""The Node.js client's work as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from support.processes import ROOT
from support.rabbitmq import missing

SCRIPT = Path(__file__).with_name("amqplib.cjs")


def start_node(port: int, *arguments: str) -> subprocess.Popen[str]:
    """``amqplib.cjs`` against that port; see there for its arguments."""
    node = shutil.which("node") or missing("there is no Node.js: install the package nodejs")
    modules = ROOT / ".cache" / "node" / "node_modules"
    if not (modules / "amqplib").exists():
        missing("npm's amqplib is not here: run scripts/ensure-amqplib")
    return subprocess.Popen(
        [node, str(SCRIPT), str(port), *arguments],
        env={**os.environ, "NODE_PATH": str(modules)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def problems(process: subprocess.Popen[str], seconds: float) -> dict[str, str | None]:
    """What it did, and what was wrong with each."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    found: dict[str, str | None] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            found[entry["name"]] = entry["problem"]
        else:
            found["output"] = (found.get("output") or "") + line
    if process.returncode != 0:
        found.setdefault("exit code", str(process.returncode))
    return found
