"""What a test leaves open is its own error, not that of a later test in which the collector happens to come around."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _garbage() -> Iterator[None]:
    """Collect the test's garbage, before pytest asks what went wrong in it. What is left is not looked at again, which
    would take as long as the test."""
    yield
    gc.collect()
    gc.freeze()
