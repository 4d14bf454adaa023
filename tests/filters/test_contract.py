"""Every filter of our own keeps the contract."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar.filters
from sidecar.exchange.filter import Filter, check
from sidecar.http.delivery import Delivered
from sidecar.http_queue.filter import Queue, QueueDoor


def ours() -> Iterator[Any]:
    for path in sorted(Path(next(iter(sidecar.filters.__path__))).glob("[!_]*.py")):
        module = importlib.import_module(f"sidecar.filters.{path.stem}")
        for _, it in inspect.getmembers(module, inspect.isclass):
            if issubclass(it, Filter) and it.__module__ == module.__name__:
                yield it
    yield from (Queue, QueueDoor, Delivered)


@pytest.mark.parametrize("filter_class", list(ours()))
def test_it_is_a_filter(filter_class: Any) -> None:
    check(filter_class)


def test_names_are_used_once() -> None:
    names = [it.name for it in ours()]
    assert len(names) == len(set(names))
