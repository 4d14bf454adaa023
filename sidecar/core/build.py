"""Which build runs: the hot path compiled, or the source as it is; and what reads ordinary heads."""

from __future__ import annotations

import functools
import os
import platform
from importlib.util import find_spec
from typing import Final

COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"

#: What reads ordinary heads: the scanner in C, or the parser in Python (:mod:`sidecar.http.h1.scanner`).
C: Final = "c"
PYTHON: Final = "python"

#: One module of the hot path; either all of it is compiled or none (setup.py).
_SAMPLE: Final = "sidecar.core.ids"
_SCANNER: Final = "sidecar.http.h1._scan"


@functools.cache
def build() -> str:
    """Return :data:`COMPILED` or :data:`INTERPRETED`, by the file of which the hot path would be imported."""
    spec = find_spec(_SAMPLE)
    return INTERPRETED if spec is None or (spec.origin or "").endswith((".py", ".pyc")) else COMPILED


@functools.cache
def scanner() -> str:
    """Return :data:`C` where the scanner was built and ``SIDECAR_SCANNER`` does not do without it, else
    :data:`PYTHON`."""
    return PYTHON if os.environ.get("SIDECAR_SCANNER") == PYTHON or find_spec(_SCANNER) is None else C


def described() -> str:
    """All of it, and the Python, for people."""
    return f"{build()}, heads read in {scanner().capitalize()}, Python {platform.python_version()}"
