"""Files and functions stay short enough to be read at once. What is longer today is listed, and may only shrink."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import sidecar
from support.statements import statements

ROOT = Path(sidecar.__file__).parent

#: The most lines of a file, and of a function with its docstring.
FILE = 400
FUNCTION = 60
#: The most modules of a package of AMQP.
MODULES = 16

#: Longer files of today, and the most lines that they may have.
FILES: Mapping[str, int] = {}
#: The same of functions.
FUNCTIONS: Mapping[str, int] = {}


def test_files_are_short() -> None:
    found = {name: len(text.splitlines()) for name, text in sources().items()}
    _judge({name: lines for name, lines in found.items() if lines > FILE}, FILES)


def test_functions_are_short() -> None:
    found = {}
    for name, text in sources().items():
        for node in statements(ast.parse(text).body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    found[f"{name}: {node.name}"] = lines
    _judge(found, FUNCTIONS)


def test_packages_of_amqp_are_small() -> None:
    packages = [path for path in [ROOT / "amqp", *(ROOT / "amqp").rglob("*")] if path.is_dir()]
    found = {str(path.relative_to(ROOT)): len(list(path.glob("*.py"))) for path in packages}
    assert {name: count for name, count in found.items() if count > MODULES} == {}, "too many modules"


def _judge(long: Mapping[str, int], known: Mapping[str, int]) -> None:
    assert {name: lines for name, lines in long.items() if lines > known.get(name, 0)} == {}, "too long"
    assert known.keys() - long.keys() == set(), "short by now: take these out of the list"


def sources() -> dict[str, str]:
    """The text of each file that is judged, by its path."""
    names = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
    return {name: path.read_text("utf-8") for name, path in names.items()}
