"""Which build runs: the hot path compiled, or the source as it is; and what reads ordinary heads and AMQP."""

from __future__ import annotations

import functools
import os
import platform
from importlib import import_module
from importlib.util import find_spec
from typing import Final

COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"

#: The scanners in C, or what reads everything else in Python (:mod:`sidecar.http.h1.scanner`,
#: :mod:`sidecar.amqp.wire.runs`).
C: Final = "c"
PYTHON: Final = "python"

#: One module of the hot path; either all of it is compiled or none (setup.py).
_SAMPLE: Final = "sidecar.core.ids"

#: The environment variable that chooses between them.
VARIABLE: Final = "SIDECAR_SCANNER"


@functools.cache
def build() -> str:
    """Return :data:`COMPILED` or :data:`INTERPRETED`, by the file of which the hot path would be imported."""
    spec = find_spec(_SAMPLE)
    return INTERPRETED if spec is None or (spec.origin or "").endswith((".py", ".pyc")) else COMPILED


def wanted() -> str:
    """What ``SIDECAR_SCANNER`` asks for: :data:`C` insists on the extensions, :data:`PYTHON` does without, and empty
    takes what there is. Raises :class:`ValueError`."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", C, PYTHON):
        raise ValueError(f"{VARIABLE} is {value!r}; it may be {C!r} or {PYTHON!r}")
    return value


def scanner() -> str:
    """Return what reads ordinary heads, :data:`C` or :data:`PYTHON`."""
    return _language("sidecar.http.h1.scanner", "scan_request")


def amqp_scanner() -> str:
    """Return what cuts AMQP into frames and finds runs of messages."""
    return _language("sidecar.amqp.wire.runs", "cut")


def facts() -> dict[str, str]:
    """Return each of them by its name in the admin API and in metrics."""
    return {"build": build(), "scanner": scanner(), "amqp_scanner": amqp_scanner()}


def described() -> str:
    """All of it, and the Python, for people."""
    heads, amqp = scanner().capitalize(), amqp_scanner().capitalize()
    return f"{build()}, heads read in {heads}, AMQP in {amqp}, Python {platform.python_version()}"


@functools.cache
def _language(module: str, function: str) -> str:
    """Whether this module has found its function in C. It is asked itself, as an extension that is there may be of an
    older source, and is passed over then; by its name, as core imports nothing that stands on it."""
    return PYTHON if getattr(import_module(module), function) is None else C
