"""What is compiled where the package is built for speed: the list in setup.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sidecar.filters.order import DECLARING

ROOT = Path(__file__).resolve().parents[1]


def hot_path() -> list[str]:
    """The files that setup.py names. It is read, not run: running it would build."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "HOT_PATH":
            files: list[str] = ast.literal_eval(node.value)
            return files
    raise AssertionError("setup.py has no HOT_PATH")


def test_every_file_of_the_hot_path_is_there_and_every_filter_is_on_it() -> None:
    files = hot_path()
    assert files == sorted(set(files))
    assert all((ROOT / file).is_file() for file in files)
    filters = {f"sidecar/filters/{path.name}" for path in (ROOT / "sidecar" / "filters").glob("[!_]*.py")}
    # Those that declare their settings may be interpreted.
    declaring = {f"sidecar/filters/{it.name}.py" for it in DECLARING}
    assert filters - set(files) - declaring == {"sidecar/filters/order.py"}


def test_continuous_integration_runs_the_tests_of_all_that_is_compiled() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^COMPILED_TESTS := \$\(addprefix tests/,([a-z_ ]+)\)", text, re.MULTILINE)
    assert {Path(file).parts[1] for file in hot_path()} <= set(listed.split())
    assert "make test-hot-path\n" in (ROOT / ".ci" / "run").read_text()
