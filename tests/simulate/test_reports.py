"""Each scenario makes a report of whatever comes of its runs, which are made up here: real ones take too long."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest

from sidecar.simulate.report import Report
from sidecar.simulate.scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("number", [1, 7])
def test_a_report_is_made_of_whatever_comes_of_it(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SCENARIOS[name]
    module = sys.modules[scenario.run.__module__]
    for found, function in inspect.getmembers(module, inspect.isfunction):
        outcome = get_type_hints(function).get("return")
        own = function.__module__ == module.__name__ and not found.startswith("_")
        if own and (outcome in (int, float) or _is_tuple(outcome)):
            monkeypatch.setattr(module, found, partial(_made_up_for, outcome, number))
    report = scenario.run(1)
    assert report.tables
    assert report.text()
    assert report.markdown().startswith("| ")
    for plot in report.plots:
        ElementTree.fromstring(plot.svg())


def test_laws_that_do_not_hold_are_told() -> None:
    report = Report()
    report.law("as it should be", True, "1")
    report.law("as it should not be", False, "2")
    assert [law.what for law in report.broken] == ["as it should not be"]
    assert report.markdown().endswith("**2**, which is missed")


def _made_up_for(kind: Any, number: int, *_: Any, **__: Any) -> Any:
    return made_up(kind, number)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple or (isinstance(kind, type) and issubclass(kind, tuple))


def made_up(kind: Any, number: int) -> Any:
    """Something of that type."""
    if kind in (int, float):
        return kind(number)
    if kind is str:
        return str(number)
    if get_origin(kind) is tuple:
        return tuple(made_up(it, number) for it in get_args(kind))
    if get_origin(kind) is Sequence:
        return [made_up(get_args(kind)[0], number + n) for n in range(3)]
    if get_origin(kind) is dict:
        return {name: made_up(get_args(kind)[1], number) for name in ("critical", "normal", "low")}
    return kind(**{name: made_up(it, number) for name, it in get_type_hints(kind).items()})
