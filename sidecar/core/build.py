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

#: C or PYTHON, by the extension's name; without those whose modules nobody has imported.
_chosen: Final[dict[str, str]] = {}


@functools.cache
def build() -> str:
    """Return :data:`COMPILED` or :data:`INTERPRETED`, by the file of which the hot path would be imported."""
    spec = find_spec(_SAMPLE)
    return INTERPRETED if spec is None or (spec.origin or "").endswith((".py", ".pyc")) else COMPILED


def scanner() -> str:
    """Return what reads ordinary heads: :data:`C` where the scanner was built from this source and
    ``SIDECAR_SCANNER`` does not do without it, else :data:`PYTHON`. As long as nothing reads heads, it is told by the
    file."""
    return _chosen.get("_scan") or _language("http/h1", "_scan")


def amqp_scanner() -> str:
    """The same of what cuts AMQP into frames and finds runs of messages."""
    return _chosen.get("_runs") or _language("amqp/wire", "_runs")


def chosen(extension: str, in_c: bool) -> None:
    """Whoever may use ``extension`` says here whether it does: one that is there may be from an older source."""
    _chosen[extension] = C if in_c else PYTHON


def facts() -> dict[str, str]:
    """Return each of them by its name in the admin API and in metrics."""
    return {"build": build(), "scanner": scanner(), "amqp_scanner": amqp_scanner()}


def described() -> str:
    """All of it, and the Python, for people."""
    heads, amqp = scanner().capitalize(), amqp_scanner().capitalize()
    return f"{build()}, heads read in {heads}, AMQP in {amqp}, Python {platform.python_version()}"


@functools.cache
def _language(folder: str, extension: str) -> str:
    if os.environ.get("SIDECAR_SCANNER") == PYTHON:
        return PYTHON
    return C if PathFinder.find_spec(extension, [f"{path}/{folder}" for path in _folders]) else PYTHON
