"""docs/architecture.md names every package and every file under ``sidecar/``, and none that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar

ROOT = Path(sidecar.__file__).parent
PAGE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"


def test_every_file_has_a_line() -> None:
    here = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if not path.name.startswith("__")}
    lacking = sorted(here - set(listed()))
    assert not lacking, f"docs/architecture.md lacks a line for {', '.join(lacking)}"


def test_every_package_has_a_line() -> None:
    here = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.rglob("*/__init__.py")}
    here |= {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("*/*.py")}
    assert sorted(here - set(listed())) == []


def test_what_is_listed_is_there() -> None:
    assert [name for name in listed() if not (ROOT / name).exists()] == []


def test_what_the_page_names_is_there() -> None:
    """Files in prose, by the end of their path."""
    project = PAGE.parent.parent
    files = [
        f"/{path.relative_to(project)}" for room in ("sidecar", "tests") for path in (project / room).rglob("*.py")
    ]
    prose = re.sub(r"```.*?```", "", PAGE.read_text("utf-8"), flags=re.DOTALL)
    named = re.findall(r"`([\w/.]+\.py)`", prose)
    assert [name for name in named if name != "setup.py" and not any(it.endswith(f"/{name}") for it in files)] == []


def test_the_classes_that_the_page_names_are_there() -> None:
    code = "\n".join(path.read_text("utf-8") for path in sorted(ROOT.rglob("*.py")))
    gone = []
    for name, method in re.findall(r"`([A-Z][a-z]\w*)(?:\.(\w+))?`", PAGE.read_text("utf-8")):
        if not re.search(rf"^class {name}\b", code, re.MULTILINE):
            gone.append(name)
        elif method and not re.search(rf"\bdef {method}\b", code):
            gone.append(f"{name}.{method}")
    assert gone == []


@pytest.mark.parametrize("text", ["  core/    words\n    ids.py   ids; a.py: b", "  core/    words\n    ids.py, a.py"])
def test_names_are_read_with_their_folders(text: str) -> None:
    assert list(paths(text)) == ["core/", "core/ids.py", "core/a.py"]


def listed() -> list[str]:
    """The packages and files in the blocks of "The rooms", by their paths."""
    blocks = re.findall(r"```\nsidecar/\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return [path for block in blocks for path in paths(block)]


def paths(block: str) -> Iterator[str]:
    """Read an indented list: ``name/`` opens a package, and further files may be named in the text of a line."""
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name = line.split()[0]
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
            yield "".join(folders)
        else:
            yield from ("".join(folders) + file for file in re.findall(r"\b\w+\.py\b", line))
