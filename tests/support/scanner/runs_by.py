"""Who finds runs of AMQP messages, for the time of a test: an extension that was built for it, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from sidecar.amqp.flow import tracing
from sidecar.amqp.relay import forward
from sidecar.amqp.wire import frames, runs

_ROOMS: list[tuple[Any, str]] = [
    (frames, "cut"), (runs, "cut"), (tracing, "add_traces"), (tracing, "whole_publishes"),
    (forward, "whole_numbers"),
]  # fmt: skip


@contextmanager
def found_by(module: ModuleType | None) -> Iterator[None]:
    """Runs are found by that, or by nobody."""
    before = [vars(room)[name] for room, name in _ROOMS]
    for room, name in _ROOMS:
        vars(room)[name] = None if module is None else getattr(module, name)
    try:
        yield
    finally:
        for (room, name), old in zip(_ROOMS, before, strict=True):
            vars(room)[name] = old
