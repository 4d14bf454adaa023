"""What goes into the image is named by version and hash, and covers what the package asks for."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILES = ("constraints.txt", "build-constraints.txt")
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux", "extra": ""}


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package → its version and its hashes."""
    text = re.sub(r"^#.*\n", "", (ROOT / "images" / name).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        pin, *options = line.split()
        package, _, version = pin.partition("==")
        hashes = [option.removeprefix("--hash=sha256:") for option in options]
        assert all(re.fullmatch(r"[0-9a-f]{64}", it) for it in hashes), line
        assert canonicalize_name(package) not in found
        found[canonicalize_name(package)] = (version, hashes)
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_package_has_a_version_and_hashes_and_nothing_says_from_where(name: str) -> None:
    found = pins(name)
    assert found
    for package, (version, hashes) in found.items():
        assert version, package
        assert hashes, package
    text = (ROOT / "images" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", re.sub(r"^\s*--hash=.*", "", text, flags=re.MULTILINE), flags=re.MULTILINE)


def test_they_are_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(it) for it in (*project["dependencies"], *extras["amqp"])]
    found = pins("constraints.txt")
    for requirement in wanted:
        version, _ = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"run make lock-image: {requirement}, pinned is {version}"


@pytest.mark.parametrize("name", FILES)
def test_they_hold_what_those_need_in_turn(name: str) -> None:
    found = pins(name)
    for package in found:
        try:
            needs = [Requirement(it) for it in requires(package) or ()]
        except PackageNotFoundError:
            continue  # only the image has it
        for need in needs:
            if need.marker is None or need.marker.evaluate(dict(IMAGE)):
                assert canonicalize_name(need.name) in found, f"run make lock-image: {package} needs {need}"


def test_what_runs_has_upper_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for it in (*project["dependencies"], *extras["amqp"], *extras["loadtest"]):
        assert any(spec.operator in ("<", "<=") for spec in Requirement(it).specifier), it


def test_the_image_takes_nothing_else() -> None:
    text = (ROOT / "images" / "Dockerfile.sidecar").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 3
    assert all("--no-deps" in it and ("--require-hashes" in it or "--no-index" in it) for it in installs)
    assert {it.split("-r ")[1].strip() for it in installs if "-r " in it} == set(FILES)
