"""Watches every step of every exchange, in all tests: one that is not in the table of phases fails the test."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

from sidecar.exchange import exchange
from sidecar.exchange.phases import PHASES, STEPS

_ALLOWED = {(step.by, before, step.after) for step in STEPS for before in step.before}
_wrong: list[str] = []


def pytest_configure() -> None:
    if exchange.__file__.endswith(".so"):
        return  # compiled attributes cannot be watched; the same code is, where it is not compiled
    slot: Any = exchange.Exchange.__dict__["phase"]
    if isinstance(slot, property):
        return  # a second run within one process, as mutmut has them

    def step(x: Any, after: int) -> None:
        try:
            before: int | None = slot.__get__(x)
        except AttributeError:
            before = None  # it begins
        by = sys._getframe(1).f_code.co_name
        if before is not None and (by, before, after) not in _ALLOWED:
            _wrong.append(f"{by} led from {PHASES[before][0]} to {PHASES[after][0]}")
        slot.__set__(x, after)

    setattr(exchange.Exchange, "phase", property(slot.__get__, step))  # noqa: B010 - a slot, to the type checker


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """No fixture: all tests have this, and to set a fixture up takes as long as a tenth of a small one."""
    yield
    found = _wrong.copy()
    _wrong.clear()
    assert found == [], "steps that the table of phases does not have"
