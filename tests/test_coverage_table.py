"""The table of coverage by package, and its floors."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import sidecar

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "coverage-table"))
Reached = SCRIPT["Reached"]


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("sidecar/__main__.py", "sidecar"),
        ("sidecar/amqp/listener.py", "amqp"),
        ("sidecar/amqp/wire/frames.py", "amqp.wire"),
        ("sidecar/http/h1/head.py", "http"),
    ],
)
def test_the_package_of_a_file(file: str, package: str) -> None:
    assert SCRIPT["package_of"](file) == package


def test_a_package_below_its_floor_or_without_one_is_named() -> None:
    packages = {"net": Reached(10, 9, 8, 6), "tcp": Reached(10, 10, 4, 4), "core": Reached(1, 1, 2, 2)}
    problems = list(SCRIPT["below"](packages, {"net": 80, "tcp": 100, "gone": 5}))
    assert problems == [
        "net: 75.0 % of the branches, and 80 are the floor",
        "core has no floor in coverage_floors.toml; 100 would do",
        "gone has a floor in coverage_floors.toml, and is gone",
    ]


def test_files_count_in_their_packages() -> None:
    files = {"sidecar/net/dial.py": Reached(10, 5, 4, 2), "sidecar/net/hosts.py": Reached(10, 10, 0, 0)}
    assert SCRIPT["by_package"](files) == {"net": Reached(20, 15, 4, 2)}
    assert list(SCRIPT["text"]({"net": Reached(20, 15, 4, 2)}, {"net": 50})) == [
        "package  lines     run  branches     run  floor",
        "net         20  75.0 %         4  50.0 %     50",
        "all         20  75.0 %         4  50.0 %       ",
    ]


def test_every_package_has_a_floor() -> None:
    package = Path(sidecar.__file__).parent
    files = [f"sidecar/{path.relative_to(package)}" for path in package.rglob("*.py")]
    here = {SCRIPT["package_of"](file) for file in files}
    assert set(SCRIPT["floors"]()) == here


def test_the_page_about_tests_has_all_packages_and_their_floors() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    told = {name: int(floor) for name, floor in re.findall(r"^\| ([\w.]+) \|.*\| (\d+) \|$", page, re.MULTILINE)}
    assert told == SCRIPT["floors"]()
