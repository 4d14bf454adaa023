"""Which build runs: the hot path compiled, or the source as it is."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Final

COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"

#: One module of the hot path; either all of it is compiled or none (setup.py).
_SAMPLE: Final = "sidecar.core.ids"


@functools.cache
def build() -> str:
    """Return :data:`COMPILED` or :data:`INTERPRETED`, by the file of which the hot path would be imported."""
    spec = find_spec(_SAMPLE)
    return INTERPRETED if spec is None or (spec.origin or "").endswith((".py", ".pyc")) else COMPILED
