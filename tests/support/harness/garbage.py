"""What a test leaves open is its own error, not that of a later test in which the collector happens to come around."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator

import pytest

#: Objects more than before, from which on the collector looks at the young ones by itself. It does so after each test
#: anyway; from 700 on, as it is from the start, that is a thirtieth of all that small tests cost.
YOUNG = 50_000


def pytest_configure() -> None:
    gc.set_threshold(YOUNG, 10, 10)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing of what is made now is garbage, and to look for some takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _garbage() -> Iterator[None]:
    """Collect the test's garbage, before pytest asks what went wrong in it. What is left is not looked at again, which
    would take as long as the test."""
    yield
    gc.collect()
    gc.freeze()
