"""How many examples a property is tried with."""

from __future__ import annotations

import os
from typing import Final

import pytest

#: All of them, as every night and for `make mutate`.
THOROUGH: Final = os.environ.get("SIDECAR_THOROUGH") == "1"
#: Fewer are never left out.
_FEWEST: Final = 25


def examples(thorough: int) -> int:
    """``thorough`` with SIDECAR_THOROUGH=1, else a quarter of it."""
    return thorough if THOROUGH else min(thorough, max(_FEWEST, thorough // 4))


#: For what costs more than it tells from one change to the next.
nightly: Final = pytest.mark.skipif(not THOROUGH, reason="it runs every night, or with SIDECAR_THOROUGH=1")
