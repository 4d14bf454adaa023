"""Which build runs: the hot path compiled, or the source as it is; and what reads ordinary heads and AMQP."""

from __future__ import annotations

import functools
import os
import platform
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Final

from sidecar import __path__ as _folders

COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"

#: The scanners in C, or what reads everything else in Python (:mod:`sidecar.http.h1.scanner`,
#: :mod:`sidecar.amqp.wire.runs`).
C: Final = "c"
PYTHON: Final = "python"

#: One module of the hot path; either all of it is compiled or none (setup.py).
_SAMPLE: Final = "sidecar.core.ids"


@functools.cache
def build() -> str:
    """Return :data:`COMPILED` or :data:`INTERPRETED`, by the file of which the hot path would be imported."""
    spec = find_spec(_SAMPLE)
    return INTERPRETED if spec is None or (spec.origin or "").endswith((".py", ".pyc")) else COMPILED


@functools.cache
def scanner() -> str:
    """Return what reads ordinary heads: :data:`C` where the scanner was built and ``SIDECAR_SCANNER`` does not do
    without it, else :data:`PYTHON`."""
    return _language("http/h1", "_scan")


@functools.cache
def amqp_scanner() -> str:
    """The same of what cuts AMQP into frames and finds runs of messages, which is looked for and not imported."""
    return _language("amqp/wire", "_runs")


def facts() -> dict[str, str]:
    """Return each of them by its name in the admin API and in metrics."""
    return {"build": build(), "scanner": scanner(), "amqp_scanner": amqp_scanner()}


def described() -> str:
    """All of it, and the Python, for people."""
    heads, amqp = scanner().capitalize(), amqp_scanner().capitalize()
    return f"{build()}, heads read in {heads}, AMQP in {amqp}, Python {platform.python_version()}"


def _language(folder: str, extension: str) -> str:
    if os.environ.get("SIDECAR_SCANNER") == PYTHON:
        return PYTHON
    return C if PathFinder.find_spec(extension, [f"{path}/{folder}" for path in _folders]) else PYTHON
