"""sidecar(1): made from the commands, without mistakes in its roff."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sidecar.cli.main import commands
from sidecar.cli.man_page import page
from sidecar.cli.tree import read
from support.processes import ROOT, missing


def shown(text: str, folder: Path) -> str:
    """What man makes of a page; complaints fail."""
    if shutil.which("man") is None or shutil.which("groff") is None:
        missing("man or groff is not installed")
    file = folder / "sidecar.1"
    file.write_text(text)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "120", "MANROFFOPT": "-ww"}
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-P", "cat", "-l", file],
        env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)


def test_every_command_and_option_stands_in_it(tmp_path: Path) -> None:
    text = shown(page(read(commands())), tmp_path)
    for command in read(commands()).all():
        assert command.path in text
        for option in command.options:
            assert option.flags[-1] in text, (command.path, option.flags)
    assert "NAME" in text
    assert "what to do next – does not apply" not in text
    assert "✓ as it should be" in text
    assert "sidecar exec [FILE] -- COMMAND [ARGUMENT ...]" in text


def test_text_means_nothing_to_roff(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser("sidecar", description=".SH not a section \\fB", epilog="'tis\n.br\n  -a \\n")
    parser.add_argument("thing", metavar="THING")
    text = shown(page(read(parser)), tmp_path)
    for line in (".SH not a section \\fB", "'tis", ".br", "-a \\n", "THING"):
        assert line in text


def test_it_is_made_with_the_standard_library_alone(tmp_path: Path) -> None:
    """As it is when a package is built."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from sidecar.cli.man_page import text; print(text(), end='')"
    env = {**os.environ, "SIDECAR_ADMIN": "http://10.0.0.7:1", "COLUMNS": "20"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, ROOT], cwd=tmp_path, env=env, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == page(read(commands()))
    assert "10.0.0.7:1" not in done.stdout.replace("10.0.0.7:15000", "")
