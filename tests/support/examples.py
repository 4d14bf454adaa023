"""How many examples a property is tried with."""

from __future__ import annotations

import os
from typing import Final

#: All of them, as every night and for `make mutate`.
_ALL: Final = os.environ.get("SIDECAR_THOROUGH") == "1"
#: Fewer are never left out.
_FEWEST: Final = 30


def examples(thorough: int) -> int:
    """``thorough`` with SIDECAR_THOROUGH=1, else a third of it: `make test` is run many times, and draws new ones each
    time."""
    return thorough if _ALL else min(thorough, max(_FEWEST, thorough // 3))
