"""What a health check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """``status`` is ``healthy``, ``warning`` or ``unhealthy``; ``output`` a line that says why."""

    status: str
    output: str
