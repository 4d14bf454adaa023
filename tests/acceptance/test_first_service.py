"""docs/first-service.md: its commands, as they stand there but for the ports and more patience, and what they print. Of
the part about Compose those that need no Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.patience import PATIENCE
from support.processes import ROOT, free_port

PAGE = ROOT / "docs" / "first-service.md"
#: Commands, and what stands below as their output.
BLOCK = re.compile(r"^```(?P<kind>sh)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("8081", "8082", "9000", "10081", "15000", "15001")
#: What differs from run to run.
DIFFERS = (
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "AT"),
    (re.compile(r"\b[\d.]+ (?:µs|ms|s)\b"), "TIME"),
    (re.compile(r"127\.0\.0\.1:\d+ refused the connection"), "EITHER refused the connection"),
    # An endpoint that refuses connections is out of the rotation for a moment: longer than it takes to ask, or shorter.
    (re.compile(r"\bhealthy\b|\bwarning\b|ejected \(unreachable\)"), "STATE"),
    (re.compile(r"\s+"), " "),
)


def plain(line: str) -> str:
    """A line without what differs."""
    for expression, word in DIFFERS:
        line = expression.sub(word, line)
    return line.strip()


def lacking(told: str, printed: str) -> list[str]:
    """The lines that the page tells of, from the first one that does not come, in order, among those printed. A line
    there may go on, and … stands for what does."""
    lines = iter(plain(line) for line in printed.splitlines())
    expected = [plain(line).removesuffix("…").rstrip() for line in told.splitlines()]
    for number, line in enumerate(expected):
        if not any(it.startswith(line) for it in lines):
            return expected[number:]
    return []


def blocks_of(part: str) -> list[tuple[str, str]]:
    """Kind (``sh``: commands) and text of the blocks of a part, with free ports in place of the page's."""
    found = re.search(rf"^## {part}$(?P<part>.*?)(?=^## )", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    text = found["part"]
    for port in PORTS:
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    text = re.sub(r"^sidecar wait", f"sidecar wait --timeout {PATIENCE:.0f}s", text, flags=re.MULTILINE)
    return [(it["kind"], it["text"]) for it in BLOCK.finditer(text)]


def differences(folder: Path, blocks: list[tuple[str, str]], **environment: str) -> list[str]:
    """Run the commands, all in one shell, in a folder. Return what of the page does not come."""
    commands = [text for kind, text in blocks if kind]
    script = folder / "script.sh"
    script.write_text("exec 2>&1\n" + "".join(f"{text}\necho '=== {number}'\n" for number, text in enumerate(commands)))
    work = folder / "work"
    work.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", str(script)], cwd=work, env={**os.environ, "PATH": path, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, timeout=5 * PATIENCE, check=False,
    )  # fmt: skip
    printed = re.split(r"^=== \d+\n", ran.stdout, flags=re.MULTILINE)
    assert len(printed) == len(commands) + 1, ran.stdout
    problems, number = [], -1
    for kind, text in blocks:
        if kind:
            number += 1
        elif missing := lacking(text, printed[number]):
            problems.append(f"after\n{commands[number]}\nthere is no\n{missing[0]}\nin\n{printed[number]}")
    return problems


@pytest.mark.costly
def test_plain_processes(tmp_path: Path) -> None:
    blocks = blocks_of("Plain processes")
    admin = next(found[1] for _, text in blocks if (found := re.search(r'admin: \{bind: "([\d.:]+)"', text)))
    problems = differences(tmp_path, blocks, SIDECAR_ADMIN=f"http://{admin}")
    assert not problems, "\n".join(problems)


def test_the_files_for_compose(tmp_path: Path) -> None:
    blocks = [(kind, text) for kind, text in blocks_of("With Compose") if "docker " not in text]
    assert len(blocks) == 3
    problems = differences(tmp_path, blocks)
    assert not problems, "\n".join(problems)
