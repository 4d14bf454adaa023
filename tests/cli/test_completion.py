"""``sidecar completion``: each shell is asked for real what it would complete."""

from __future__ import annotations

import argparse
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sidecar.cli.completion import SHELLS
from sidecar.cli.main import commands, main
from sidecar.cli.tree import read
from support.patience import PATIENCE
from support.processes import missing

#: What is on the line, and what may come next; the folder has a file and a folder.
CASES = {
    "sidecar sch": {"schema"},
    "sidecar spool re": {"replay"},
    "sidecar check --aga": {"--against"},
    "sidecar check sidecar": {"sidecar.yaml"},
    "sidecar run ": {"sidecar.yaml", "sites", "-h", "--help"},
    "sidecar tap --token-file side": {"sidecar.yaml"},
    "sidecar tap --error side": set(),
    "sidecar validate --component perf": {"performance"},
    "sidecar validate --component performance --deg": {"--degraded-ok"},
    "sidecar completion ": {"bash", "zsh", "fish", "-h", "--help"},
    "sidecar status --admin run --ad": {"--admin"},  # run is a value here, no command
    "sidecar attach x.yml shop -o sit": {"sites"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sidecar.yaml").touch()
    (tmp_path / "sites").mkdir()
    for shell, write in SHELLS.items():
        (tmp_path / "sites" / f".{shell}").write_text(write(read(commands())))
    return tmp_path


def ran(shell: str, folder: Path, script: str) -> list[str]:
    if shutil.which(shell) is None:
        missing(f"{shell} is not installed")
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", script], cwd=folder, env={**os.environ, "HOME": str(folder)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands_options_values_and_files(folder: Path) -> None:
    script = ["source sites/.bash"]
    for line in CASES:
        words = [*line.split(), ""] if line.endswith(" ") else line.split()
        given = " ".join(f"'{word}'" for word in words)
        script.append(f"COMP_WORDS=({given}) COMP_CWORD={len(words) - 1}; _sidecar; echo '={line}'")
        script.append("printf '%s\\n' \"${COMPREPLY[@]}\"")
    found: dict[str, set[str]] = {}
    for text in ran("bash", folder, "\n".join(script)):
        if text.startswith("="):
            found[line := text[1:]] = set()
        elif text:
            found[line].add(text)
    assert found == CASES


def test_bash_completes_any_command_behind_two_dashes(folder: Path) -> None:
    line = "COMP_WORDS=(sidecar exec f -- basena) COMP_CWORD=4"
    (said,) = ran("bash", folder, f"source sites/.bash; {line}; _sidecar; echo ${{COMPREPLY[0]}}")
    assert said == "basename"


def test_fish_completes_commands_options_values_and_files(folder: Path) -> None:
    wanted = {
        "sidecar sch": {"schema"},
        "sidecar spool re": {"replay"},
        "sidecar check --aga": {"--against"},
        "sidecar check sidecar": {"sidecar.yaml"},
        "sidecar tap --token-file side": {"sidecar.yaml"},
        "sidecar tap --error side": set(),
        "sidecar validate --component perf": {"performance"},
        "sidecar validate --component performance --deg": {"--degraded-ok"},
        "sidecar status --admin run --ad": {"--admin"},
    }
    script = ["source sites/.fish", *(f"echo ={line}; complete -C '{line}'" for line in wanted)]
    found: dict[str, set[str]] = {}
    for text in ran("fish", folder, "\n".join(script)):
        if text.startswith("="):
            found[line := text[1:]] = set()
        else:
            found[line].add(text.partition("\t")[0])
    assert found == wanted


@pytest.mark.parametrize(
    ("shell", "begin"),
    [
        ("bash", "source sites/.bash"),
        ("zsh", "autoload -U compinit; compinit -u -D; source sites/.zsh"),
    ],
)
def test_the_tab_key(shell: str, begin: str, folder: Path) -> None:
    if shutil.which(shell) is None:
        missing(f"{shell} is not installed")
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[shell]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "PS1": "> "}
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - becomes the shell
        os.chdir(folder)
        os.execvpe(shell, [shell, *options], env)
    try:
        seen = typed(terminal, f"{begin}; echo rea''dy\n", until="ready")
        seen = typed(terminal, "sidecar validate --comp\t", until="--component ")
        seen = typed(terminal, "perf\t", until="performance ")
        assert "rror" not in seen
        typed(terminal, "\x15sidecar check si\x09\x09", until="sites")
    finally:
        os.close(terminal)  # hangs up
        os.waitpid(process, 0)


def typed(terminal: int, keys: str, until: str) -> str:
    """Press keys and read until that stands there."""
    os.write(terminal, keys.encode())
    seen, ends = "", time.monotonic() + PATIENCE
    while until not in seen:
        assert time.monotonic() < ends, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, write in SHELLS.items():
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == write(read(commands()))


def test_what_is_hidden_is_not_completed_and_quotes_are_quoted() -> None:
    parser = argparse.ArgumentParser("sidecar")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_argument("--depth", metavar="N", default=3, help="it's 100%% of %(default)s: \\")
    for write in SHELLS.values():
        script = write(read(parser))
        assert "--depth" in script or "-l depth" in script
        assert "secret" not in script
    assert "it'\\''s 100% of 3: \\" in SHELLS["zsh"](read(parser))
    assert "it\\'s 100% of 3: \\\\" in SHELLS["fish"](read(parser))
