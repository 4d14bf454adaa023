"""What is published: its metadata, what it is called, and that nobody is told to install another project."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sidecar import __version__
from sidecar.core.extras import DISTRIBUTION, how_to_install

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

#: Where a name may be advised: texts, messages, scripts.
PLACES = ("sidecar", "bench", "loadtest", "examples", "docs", "deploy", "images", "scripts", ".ci", "tests")
#: A command that installs by name, with what it is to install.
ADVICE = re.compile(
    r"\b(?:pip3?|pipx|uvx?|uv (?:tool|pip)) +(?:install|run|add|download|wheel|inject)\b(?P<what>[^\n`|&;]*)"
)
#: The name that is another project's, alone or with an extra.
NOT_OURS = re.compile(r"(?<![\w./:@-])sidecar(?![\w./-])")
#: An extra of something called sidecar.
EXTRA_OF = re.compile(r"(?P<name>[\w-]*\bsidecar)\[(?P<extras>[a-z, ]+)\]")


@cache
def texts() -> list[tuple[str, str]]:
    found = []
    files = [path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".lock"]
    for place in PLACES:
        files += [path for path in (ROOT / place).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        if path != Path(__file__):
            try:
                found.append((path.relative_to(ROOT).as_posix(), path.read_text("utf-8")))
            except UnicodeDecodeError:
                continue  # a picture
    return found


def wrong_advice(text: str) -> list[str]:
    found = []
    if "pip" in text or "uv" in text:
        found += [it[0] for it in ADVICE.finditer(text) if NOT_OURS.search(it["what"])]
    return found + [it[0] for it in extras_of(text) if it["name"] != DISTRIBUTION]


def extras_of(text: str) -> Iterator[re.Match[str]]:
    return EXTRA_OF.finditer(text) if "sidecar[" in text else iter(())


def test_nothing_advises_a_name_that_is_not_ours() -> None:
    assert {name: found for name, text in texts() if (found := wrong_advice(text))} == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install sidecar", True),
        ('`pip install -U "sidecar"`', True),
        ('python -m pip install "sidecar[amqp]==1"', True),
        ("uv tool install sidecar", True),
        ("it takes sidecar[amqp]", True),
        ('pip install "service-sidecar[amqp]"', False),
        ("pip install . # makes .venv/bin/sidecar", False),
        ("pip install ./dist/service_sidecar-1.whl && sidecar --version", False),
    ],
)
def test_wrong_advice_is_found(text: str, wrong: bool) -> None:
    assert bool(wrong_advice(text)) == wrong


def test_every_extra_that_is_advised_is_there() -> None:
    known = PROJECT["optional-dependencies"].keys()
    assert how_to_install("amqp") == 'pip install "service-sidecar[amqp]"'
    for name, text in texts():
        for it in extras_of(text):
            assert set(re.split(r", ?", it["extras"])) <= known, (name, it[0])


def test_one_name_and_one_version() -> None:
    assert (PROJECT["name"], PROJECT["version"]) == (DISTRIBUTION, __version__)
    assert PROJECT["scripts"] == {"sidecar": "sidecar.cli.main:main"}


def test_an_address_is_given_only_if_the_project_has_one() -> None:
    assert "urls" not in PROJECT
    assert not re.search(r"https?://(?:www\.)?(?:github|gitlab|pypi)\.", (ROOT / "README.md").read_text("utf-8"))


def test_compiled_wheels_are_for_pythons_that_it_takes() -> None:
    config = PYPROJECT["tool"]["cibuildwheel"]
    assert config["environment"] == {"SIDECAR_COMPILE": "1"}
    takes = SpecifierSet(PROJECT["requires-python"])
    for identifier in config["build"].split():
        found = re.fullmatch(r"cp3(\d+)-manylinux_\*", identifier)
        assert found, identifier
        assert takes.contains(f"3.{found[1]}")
    assert set(config["test-extras"]) <= PROJECT["optional-dependencies"].keys()
    for command in config["test-command"]:
        for file in re.findall(r"\{project\}/(\S+)", command):
            assert (ROOT / file).is_file()


def test_what_compiles_is_what_the_image_is_compiled_with() -> None:
    """An isolated build asks setup.py for mypy, the others have that of an extra."""
    extras = PROJECT["optional-dependencies"]
    (asked,) = re.findall(r'setup_requires=\["([^"]+)"\]', (ROOT / "setup.py").read_text())
    for extra in ("dev", "dist"):
        assert asked in extras[extra]
    pinned = re.search(r"^mypy==(\S+)", (ROOT / "images" / "build-constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert Requirement(asked).specifier.contains(pinned[1])


def test_what_is_made_is_tried_every_night() -> None:
    assert "make test-dist\n" in (ROOT / ".ci" / "nightly").read_text()
    assert re.search(r"^test-dist: dist ", (ROOT / "Makefile").read_text(), re.MULTILINE)
