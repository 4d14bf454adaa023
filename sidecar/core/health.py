"""What a health check says."""

from __future__ import annotations

from dataclasses import dataclass


class Unsure(Exception):
    """A check could not find out: what it says is about the check, not about what was asked."""


@dataclass(frozen=True, slots=True)
class Health:
    """``status`` is ``healthy``, ``warning`` or ``unhealthy``; ``output`` a line that says why."""

    status: str
    output: str
