"""The table of phases: the page shows it, and the code keeps to it.

That no exchange takes another step is watched in all tests: :mod:`support.harness.phases`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sidecar
from sidecar.exchange import phases
from sidecar.exchange.phases import ENDED, NEW, PHASES, STEPS, mermaid

ROOT = Path(sidecar.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
NAMES = [name for name, _ in PHASES]


def test_the_page_has_the_diagram_of_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert re.findall(r"```mermaid\n(stateDiagram.*?)```", page, re.DOTALL) == [mermaid()]


def test_each_phase_has_its_number_and_can_be_left_but_for_the_last() -> None:
    assert [getattr(phases, name) for name in NAMES] == list(range(len(NAMES)))
    assert {before for step in STEPS for before in step.before} == set(range(len(NAMES))) - {ENDED}
    reached = {NEW}
    for _ in NAMES:
        reached |= {step.after for step in STEPS if reached & set(step.before)}
    assert reached == set(range(len(NAMES)))


def test_only_the_methods_of_the_table_change_a_phase() -> None:
    found = {(by, after) for path in ROOT.rglob("*.py") for by, after in _changes(path)}
    table = {(step.by, NAMES[step.after]) for step in STEPS}
    assert found - table == {("__init__", "NEW")}, "steps that the table does not have"
    assert table - found == set(), "steps that nobody takes"


def _changes(path: Path) -> Iterator[tuple[str, str]]:
    """The functions of a file that set the phase of an exchange, and to what."""
    source = path.read_bytes()
    if b".phase = " not in source:
        return  # most files: taking them apart is slow
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in NAMES:
                for target in node.targets:
                    if isinstance(target, ast.Attribute) and target.attr == "phase":
                        yield function.name, node.value.id
